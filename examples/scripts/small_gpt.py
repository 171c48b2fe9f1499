"""A small GPT of letters: AdamW with weight decay for matrices alone, warmup and cosine, gradients accumulated over two
batches and clipped, tied weights; `COMPILE=inductor` (or another backend of torch.compile) compiles it.

    python examples/scripts/small_gpt.py                plain torch
    PS_SERVER=http://127.0.0.1:8080 python ...          a worker; RANK and WORLD_SIZE say which of how many
"""

import math
import os

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS, WARMUP, ACCUMULATED, BATCH_SIZE, CONTEXT = 60, 5, 2, 8, 24
RATE, LOWEST_RATE, DECAY, CLIP_NORM = 1e-2, 1e-3, 0.1, 1.0
TEXT = (
    "a clock for each worker, and a bound for all of them. whoever is ahead by more than the bound waits, and whoever "
    "is behind is waited for. with a bound of nothing they go in step; without a bound they go as they will. "
) * 4


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, inner: Tensor) -> Tensor:
        batch, length, width = inner.shape
        parts = self.attend(self.before(inner)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts, is_causal=True)
        inner = inner + self.project(seen.transpose(1, 2).reshape(batch, length, width))
        return inner + self.mlp(self.between(inner))


class GPT(nn.Module):
    def __init__(self, letters: int, width: int = 32, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, letters, bias=False)
        self.letter.weight = self.out.weight
        for embedding in (self.letter, self.place):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, text: Tensor, following: Tensor) -> Tensor:
        inner = self.letter(text) + self.place(torch.arange(text.shape[1]))
        scores = self.out(self.norm(self.blocks(inner)))
        return functional.cross_entropy(scores.flatten(0, 1), following.flatten())


def rate(step: int) -> float:
    """As a part of `RATE`: up in a line, then down along a cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    lowest, done = LOWEST_RATE / RATE, (step - WARMUP) / (STEPS - WARMUP)
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * done)) / 2


letters = sorted(set(TEXT))
codes = torch.tensor([letters.index(letter) for letter in TEXT])
draw = torch.Generator().manual_seed(int(os.environ.get("RANK", "0")))  # each worker draws batches of its own


def batch() -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(codes) - CONTEXT, (BATCH_SIZE, 1), generator=draw)
    places = starts + torch.arange(CONTEXT)
    return codes[places], codes[places + 1]


torch.manual_seed(0)
model = GPT(len(letters))
matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
forward = torch.compile(model, backend=os.environ["COMPILE"]) if "COMPILE" in os.environ else model

if "PS_SERVER" in os.environ:
    import leeway

    optimizer = leeway.wrap(optimizer, model)

losses = []
for _ in range(STEPS):
    total = 0.0
    for _ in range(ACCUMULATED):
        loss = forward(*batch()) / ACCUMULATED
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    losses.append(total)
print(f"loss {losses[0]:.3f} -> {sum(losses[-5:]) / 5:.3f}")
