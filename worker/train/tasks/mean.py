"""The mean of figures that were found piece by piece, each weighted by its samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Mean:
    """Every piece has figures of the same names."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._samples = 0

    def add(self, figures: Mapping[str, float], samples: int) -> None:
        for name, figure in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + figure * samples
        self._samples += samples

    @property
    def figures(self) -> dict[str, float]:
        """By name; nothing before the first piece."""
        return {name: total / self._samples for name, total in self._sums.items()}
