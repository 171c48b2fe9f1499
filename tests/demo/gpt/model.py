"""A small GPT over characters: a decoder-only transformer that guesses the next one.

Vaswani et al., 2017 (arXiv 1706.03762), with the norms before the layers, as in Radford et al., 2019 (GPT-2).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LENGTH = 64
_WIDTH = 64
_HEADS = 4
_LAYERS = 2


class Block(nn.Module):
    """Characters look at those before them, then each is worked on alone. (batch, time, width) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.queries_keys_values = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.projection = nn.Linear(_WIDTH, _WIDTH)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, time, _ = x.shape
        heads = self.queries_keys_values(self.norm_attention(x)).view(size, time, 3, _HEADS, -1)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.projection(seen.transpose(1, 2).reshape(size, time, _WIDTH))
        after: torch.Tensor = x + self.mlp(self.norm_mlp(x))
        return after


class Gpt(nn.Module):
    """int64 ids (batch, time), time at most `LENGTH`, to scores (batch, time, vocabulary) for what follows each."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, _WIDTH)
        self.places = nn.Embedding(LENGTH, _WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, vocabulary)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.characters(ids) + self.places.weight[: ids.shape[1]]
        scores: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return scores

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy, in nats a character."""
        return functional.cross_entropy(self(ids).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def go_on(self, ids: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
        """`count` characters that follow ids of shape (n,), drawn one by one."""
        for _ in range(count):
            odds = self(ids[None, -LENGTH:])[0, -1].softmax(0)
            ids = torch.cat([ids, torch.multinomial(odds, 1, generator=draw)])
        return ids[-count:]
