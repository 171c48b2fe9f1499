"""A recurrent language model whose last layer is its embedding (tied weights): the state goes on from piece to piece,
gradients are clipped, and the rate falls where the loss does.

    python examples/scripts/tied_language_model.py      plain torch
    PS_SERVER=http://127.0.0.1:8080 python ...          a worker; RANK and WORLD_SIZE say which of how many
"""

import os

import torch
from torch import Tensor, nn
from torch.nn import functional

EPOCHS, STREAMS, LENGTH = 6, 4, 16
TEXT = (
    "fast workers run ahead and slow workers follow, and nobody is further ahead than all have agreed to. "
    "a worker that is gone is missed for as long as its lease, and then the others go on without it. "
    "what was pushed is applied once, however often it was sent. "
) * 3


class Language(nn.Module):
    def __init__(self, letters: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, letters)
        self.out.weight = self.embedding.weight

    def forward(self, text: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        inner, state = self.recurrent(self.embedding(text), state)
        return self.out(inner), state


letters = sorted(set(TEXT))
codes = torch.tensor([letters.index(letter) for letter in TEXT])
rank = int(os.environ.get("RANK", "0"))
streams = codes.roll(37 * rank)[: len(codes) // STREAMS * STREAMS].view(STREAMS, -1)  # each worker begins elsewhere

torch.manual_seed(0)
model = Language(len(letters))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.25, patience=0)

if "PS_SERVER" in os.environ:
    import leeway

    optimizer = leeway.wrap(optimizer, model)

losses = []
for _ in range(EPOCHS):
    state, first = None, len(losses)
    for start in range(0, streams.shape[1] - LENGTH, LENGTH):
        optimizer.zero_grad()
        scores, state = model(streams[:, start : start + LENGTH], None if state is None else state.detach())
        loss = functional.cross_entropy(scores.flatten(0, 1), streams[:, start + 1 : start + LENGTH + 1].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        losses.append(loss.item())
    schedule.step(sum(losses[first:]) / (len(losses) - first))
print(f"loss {losses[0]:.3f} -> {sum(losses[-5:]) / 5:.3f}")
