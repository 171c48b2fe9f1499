"""What is trained, by whom, and who is slow: MNIST CNN by several processes of this machine.

The one rule: every system gets the same model, data, batches, seed and sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SLOW_SECONDS = 0.2
TURN_ITERATIONS = 4


class Straggler(StrEnum):
    """Who sleeps `SLOW_SECONDS` in every iteration: nobody; the last rank; each rank for `TURN_ITERATIONS` in turn."""

    NONE = "no straggler"
    CONSTANT = "constant straggler"
    MOVING = "moving straggler"

    def flags(self, rank: int, world: int) -> list[str]:
        if self is Straggler.MOVING:
            return ["--slow", str(SLOW_SECONDS), "--slow-turns", str(TURN_ITERATIONS)]
        return ["--slow", str(SLOW_SECONDS)] if self is Straggler.CONSTANT and rank == world - 1 else []


class System(StrEnum):
    """Who trains: DistributedDataParallel over gloo, or Leeway under one of its policies."""

    DDP = "DDP"
    SYNC = "sync"
    ASYNC = "async"
    SSP = "ssp(3)"

    @property
    def server_flags(self) -> list[str]:
        return ["--mode", "ssp", "--staleness", "3"] if self is System.SSP else ["--mode", self.value]

    @property
    def joint(self) -> bool:
        """Whether a step is made of one update of every worker."""
        return self in (System.DDP, System.SYNC)


@dataclass(frozen=True, slots=True)
class Job:
    """`batch_size` is each worker's. `snapshot_seconds`: save the parameters about so often; 0 for never."""

    data_dir: Path
    workers: int
    batch_size: int
    straggler: Straggler = Straggler.NONE
    lr: float = 0.05
    snapshot_seconds: float = 0.0

    def flags(self, rank: int) -> list[str]:
        """Those that `ps-worker` and `tests.bench.ddp` have in common."""
        common = ["--batch-size", str(self.batch_size), "--data-dir", str(self.data_dir)]
        return common + self.straggler.flags(rank, self.workers)
