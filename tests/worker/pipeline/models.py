"""Models of the kinds that are cut: each a function, a batch for it, and a loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass
class Kind:
    make: Any
    inputs: Any
    targets: Any
    loss: Any = functional.cross_entropy
    blocks: Any = None


def mlp():
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 4)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.BatchNorm2d(6, momentum=None),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 4),
    )


class Embedding(nn.Module):
    def __init__(self, vocabulary, width, length):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids):
        return self.dropout(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))


class Block(nn.Module):
    """A layer of a transformer, with its skip connections inside; MultiheadAttention resets by another name."""

    def __init__(self, width, heads, dropout=0.1):
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.behind = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden):
        seen = self.before(hidden)
        mask = torch.ones(seen.shape[1], seen.shape[1], dtype=torch.bool).triu(1)
        hidden = hidden + self.dropout(self.attention(seen, seen, seen, attn_mask=mask, need_weights=False)[0])
        return hidden + self.dropout(self.inner(self.behind(hidden)))


class Transformer(nn.Module):
    """The head has the embedding's weights. It is declared first, so that its name is the key's first name."""

    pipeline_blocks = ("embedding", "blocks.*", "norm", "head")

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 11, bias=False)
        self.embedding = Embedding(11, 8, 5)
        self.blocks = nn.ModuleList(Block(8, 2) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.embedding.tokens.weight = self.head.weight

    def forward(self, ids):
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class Recurrent(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True, dropout=0.2)

    def forward(self, inputs):
        return self.lstm(inputs)[0]


def lstm():
    return nn.Sequential(nn.Embedding(7, 5), Recurrent(5, 6), nn.Dropout(0.3), Recurrent(6, 6), nn.Linear(6, 7))


def by_character(scores, targets):
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def kinds(samples=10):
    draw = torch.Generator().manual_seed(1)

    def ids(limit, *shape):
        return torch.randint(0, limit, shape, generator=draw)

    return {
        "mlp": Kind(mlp, torch.randn(samples, 6, generator=draw), ids(4, samples)),
        "cnn": Kind(cnn, torch.randn(samples, 2, 8, 8, generator=draw), ids(4, samples)),
        "transformer": Kind(Transformer, ids(11, samples, 5), ids(11, samples, 5), by_character),
        "lstm": Kind(lstm, ids(7, samples, 4), ids(7, samples, 4), by_character),
    }


def on_meta(make):
    def made():
        with torch.device("meta"):
            return make()

    return made
