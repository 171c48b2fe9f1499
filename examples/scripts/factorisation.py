"""Matrix factorisation: who likes what, from drawn ratings, by embeddings of people and things. `SPARSE=1` has the
embeddings' gradients be of the rows that were looked up alone, and SparseAdam step these rows.

    python examples/scripts/factorisation.py            plain torch
    PS_SERVER=http://127.0.0.1:8080 python ...          a worker; RANK and WORLD_SIZE say which of how many
"""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS, BATCH_SIZE, PEOPLE, THINGS, FACTORS = 80, 64, 40, 30, 4


class Factors(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.people = nn.Embedding(PEOPLE, FACTORS, sparse=sparse)
        self.things = nn.Embedding(THINGS, FACTORS, sparse=sparse)
        self.liked = nn.Embedding(THINGS, 1, sparse=sparse)

    def forward(self, people: Tensor, things: Tensor) -> Tensor:
        return (self.people(people) * self.things(things)).sum(1) + self.liked(things).squeeze(1)


def ratings(people: Tensor, things: Tensor) -> Tensor:
    """What these people make of these things: four traits decide."""
    draw = torch.Generator().manual_seed(1)
    who, what = torch.randn(PEOPLE, FACTORS, generator=draw), torch.randn(THINGS, FACTORS, generator=draw)
    return (who[people] * what[things]).sum(1)


sparse = os.environ.get("SPARSE") == "1"
torch.manual_seed(0)
model = Factors(sparse=sparse)
Adam = torch.optim.SparseAdam if sparse else torch.optim.Adam
optimizer: torch.optim.Optimizer = Adam(model.parameters(), lr=0.1)

if "PS_SERVER" in os.environ:
    import leeway

    optimizer = leeway.wrap(optimizer, model)

draw = torch.Generator().manual_seed(int(os.environ.get("RANK", "0")))  # each worker asks other people
losses = []
for _ in range(STEPS):
    people = torch.randint(PEOPLE, (BATCH_SIZE,), generator=draw)
    things = torch.randint(THINGS, (BATCH_SIZE,), generator=draw)
    optimizer.zero_grad()
    loss = functional.mse_loss(model(people, things), ratings(people, things))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.3f} -> {sum(losses[-5:]) / 5:.3f}")
