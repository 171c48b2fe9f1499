"""What pipelines are measured with: a small transformer, and layers whose computing is sleep.

The one rule: every system gets the same blocks, cut, batches and number of micro-batches.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

WIDTH, HEADS, BLOCKS, LENGTH, WORDS = 256, 4, 8, 32, 512
BATCH, MICRO_BATCHES = 64, 8

# Of the sleeping layers: four to a stage, forward and twice that backward.
NAP_SECONDS = 0.01
SLEEPERS = 16


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.words(tokens) + self.places(torch.arange(LENGTH))
        return embedded


class Block(nn.Module):
    """Attention and two linear layers, each behind a norm and beside a way around."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.heads, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = len(x)
        cut = self.heads(self.before(x)).view(batch, LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(cut[0], cut[1], cut[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, LENGTH, WIDTH))
        widened: torch.Tensor = self.wide(self.behind(x))
        return x + self.narrow(nn.functional.gelu(widened))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.words = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.words(self.norm(x))
        return scores


class _Nap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor, None]:
        time.sleep(2 * ctx.seconds)
        return errors[0], None


class Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.scale = nn.Parameter(torch.ones(1))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        napped: torch.Tensor = _Nap.apply(x * self.scale, self.seconds)  # type: ignore[no-untyped-call]  # torch has no types here
        return napped


def transformer() -> nn.Sequential:
    return nn.Sequential(Words(), *(Block() for _ in range(BLOCKS)), Head())


def sleepers(slow: int = -1, slowness: float = 1.0) -> nn.Sequential:
    """Four stages of them; the layers of stage `slow` take half as long again. `slowness`: of this machine, in all."""
    share = SLEEPERS // 4
    seconds = [slowness * NAP_SECONDS * (1.5 if number // share == slow else 1.0) for number in range(SLEEPERS)]
    return nn.Sequential(*map(Sleeper, seconds))


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and the tokens behind them."""
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(WORDS, (BATCH, LENGTH + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def loss(scores: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(scores.reshape(-1, WORDS), words.reshape(-1))


def quiet_loss(value: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return value.mean()
