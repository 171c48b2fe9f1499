"""A trainer for torchrun that saves snapshots and goes on from the last one: RANK and WORLD_SIZE say which process of
how many this is, and each reads its share of the data. With a server no process group is needed.

    python examples/scripts/trainer.py                                              plain torch, one process
    PS_SERVER=http://127.0.0.1:8080 torchrun --nproc-per-node 2 examples/scripts/trainer.py

EPOCHS says until which epoch (4), SNAPSHOT where the snapshot is ("snapshot.pt").
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

SAMPLES, INPUTS, BATCH_SIZE, SAVE_EVERY = 512, 20, 16, 2


class Trainer:
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: "DataLoader[tuple[Tensor, ...]]",
        snapshot: Path,
        rank: int,
    ) -> None:
        self.model, self.optimizer, self.loader, self.snapshot, self.rank = model, optimizer, loader, snapshot, rank
        self.epochs_run = 0
        self.losses: list[float] = []
        if snapshot.exists():
            self.load()
        if "PS_SERVER" in os.environ:
            import leeway

            # Behind the load: what was loaded is what a new server begins with.
            self.optimizer = leeway.wrap(optimizer, model)

    def load(self) -> None:
        saved = torch.load(self.snapshot, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epochs_run = saved["epochs_run"]
        print(f"goes on from epoch {self.epochs_run}")

    def save(self) -> None:
        # In one piece: the processes are not at the same place when one of them writes.
        fresh = self.snapshot.with_suffix(".new")
        saved = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(saved | {"epochs_run": self.epochs_run}, fresh)
        fresh.replace(self.snapshot)

    def train(self, epochs: int) -> None:
        while self.epochs_run < epochs:
            assert isinstance(self.loader.sampler, DistributedSampler)
            self.loader.sampler.set_epoch(self.epochs_run)
            for inputs, targets in self.loader:
                self.optimizer.zero_grad()
                loss = functional.mse_loss(self.model(inputs), targets)
                loss.backward()
                self.optimizer.step()
                self.losses.append(loss.item())
            self.epochs_run += 1
            if self.rank == 0 and self.epochs_run % SAVE_EVERY == 0:
                self.save()


rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
draw = torch.Generator().manual_seed(1)
inputs = torch.randn(SAMPLES, INPUTS, generator=draw)
data = TensorDataset(inputs, inputs @ torch.randn(INPUTS, 1, generator=draw) + 0.1)
loader = DataLoader(data, BATCH_SIZE, sampler=DistributedSampler(data, num_replicas=world, rank=rank))

torch.manual_seed(0)
model = nn.Linear(INPUTS, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
trainer = Trainer(model, optimizer, loader, Path(os.environ.get("SNAPSHOT", "snapshot.pt")), rank)
trainer.train(int(os.environ.get("EPOCHS", "4")))
losses = trainer.losses
if losses:
    print(f"loss {losses[0]:.3f} -> {sum(losses[-5:]) / 5:.3f}")
