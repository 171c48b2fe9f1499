"""The text that is learnt: Shakespeare's plays where PS_DATA_DIR has them, else this repository's own pages.

The one rule: a text and its parts are the same in every process, so all workers have the same vocabulary.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]

# The last part is kept from the workers, to judge the model by.
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Text:
    """`train` and `held_out`: ids, int64 of shape (characters,). `alphabet`: the character of each id."""

    name: str
    alphabet: str
    train: torch.Tensor
    held_out: torch.Tensor

    def written(self, ids: torch.Tensor) -> str:
        """The characters of ids of shape (n,)."""
        return "".join(self.alphabet[number] for number in ids.tolist())


def load() -> Text:
    plays = Path(os.environ.get("PS_DATA_DIR", "data")) / "shakespeare" / "tinyshakespeare.txt"
    if plays.is_file():
        return read("Tiny Shakespeare", plays.read_text(encoding="utf-8"))
    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return read("the pages of this repository", "\n".join(_prose(page.read_text(encoding="utf-8")) for page in pages))


def _prose(page: str) -> str:
    """Without tables, code and comments, of which a small model learns nothing but bars."""
    parts = page.split("```")[::2]
    return "\n".join(line for part in parts for line in part.splitlines() if line and not line.startswith(("|", "<")))


def read(name: str, content: str) -> Text:
    alphabet = "".join(sorted(set(content)))
    places = {character: number for number, character in enumerate(alphabet)}
    ids = torch.tensor([places[character] for character in content])
    end = int(len(ids) * (1 - HELD_OUT_SHARE))
    return Text(name, alphabet, ids[:end], ids[end:])


def batch(ids: torch.Tensor, size: int, length: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """`size` pieces of the text, anywhere, and the same moved on by one character: two of shape (size, length)."""
    begins = torch.randint(len(ids) - length, (size,), generator=draw)
    pieces = torch.stack([ids[begin : begin + length + 1] for begin in begins.tolist()])
    return pieces[:, :-1], pieces[:, 1:]
