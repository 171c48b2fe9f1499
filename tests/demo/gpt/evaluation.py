"""What each downloaded version is worth: its loss on text that nobody trains on; and what the last one writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import safetensors.torch
import torch

from tests.demo.gpt.model import LENGTH, Gpt
from tests.demo.gpt.text import Text, batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.demo.timeline import Timeline

# Enough pieces for a curve without noise; the same for all versions.
PIECES = 64

# Of all that were downloaded, evenly: a line needs no more points.
MOST_VERSIONS = 80


class Evaluator:
    def __init__(self, text: Text) -> None:
        torch.set_num_threads(1)
        self._text = text
        self._model = Gpt(len(text.alphabet)).eval()
        self._pieces = batch(text.held_out, PIECES, LENGTH, torch.Generator().manual_seed(0))

    def curve(self, versions: Mapping[int, bytes], timeline: Timeline) -> list[tuple[float, float]]:
        """Seconds since the start, and the loss in nats a character, of versions in their order."""
        chosen = sorted(versions)
        chosen = [*chosen[:: -(-len(chosen) // MOST_VERSIONS)], chosen[-1]]
        moments = [max(0.0, timeline.published[number] - timeline.start) for number in chosen]
        return [(moment, self._loss(versions[number])) for moment, number in zip(moments, chosen, strict=True)]

    def written(self, version: bytes, characters: int) -> str:
        """What this version writes by itself."""
        self._load(version)
        begin = self._text.held_out[:LENGTH]
        return self._text.written(self._model.go_on(begin, characters, torch.Generator().manual_seed(0)))

    @torch.no_grad()
    def _loss(self, version: bytes) -> float:
        self._load(version)
        return self._model.loss(*self._pieces).item()

    def _load(self, version: bytes) -> None:
        self._model.load_state_dict(safetensors.torch.load(version))
