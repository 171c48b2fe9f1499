"""What is run: three workers that are not alike, and when one of them is killed and comes back.

The one rule: what happens is tied to iterations, not to seconds, so the story is the same on a slow machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plan:
    """`naps`: seconds that each worker sleeps in each iteration, by rank. The `victim` is killed in its iteration
    `kill_at`, and started again when the slowest of the others has come to `return_at`. All end when it has made
    `more` iterations then. `staleness`: the bound of ssp. `lease_seconds`: after so much silence a worker is taken for
    dead."""

    naps: dict[str, float] = field(default_factory=lambda: {"fast": 0.0, "medium": 0.06, "slow": 0.18})
    victim: str = "slow"
    kill_at: int = 40
    return_at: int = 120
    more: int = 60
    staleness: int = 8
    lease_seconds: float = 3.0

    def __str__(self) -> str:
        workers = ", ".join(f"{rank} sleeps {seconds * 1000:.0f} ms" for rank, seconds in self.naps.items())
        return (
            f"Three workers train one model. In each iteration {workers}. Nobody gets more than {self.staleness} "
            f"iterations ahead (ssp). {self.victim} is killed (SIGKILL) in its iteration {self.kill_at}, and started "
            f"again, with the same command, when the others are at {self.return_at}."
        )
