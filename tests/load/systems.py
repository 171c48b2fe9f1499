"""Who trains: Leeway under one of its policies, or DistributedDataParallel over gloo.

The one rule: systems differ in the policy and in the learning rate that was chosen for each; everything else is the
scenario's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_FORM = re.compile(r"(sync|async|ddp)|ssp\((\d{1,3})\)", re.ASCII)


@dataclass(frozen=True, slots=True)
class System:
    """`mode`: sync, async, ssp or ddp. `bound`: ssp's, in iterations; None for the others."""

    mode: str
    bound: int | None = None

    @classmethod
    def read(cls, text: str) -> System:
        """From "sync", "async", "ssp(3)" or "ddp". Raises `ValueError`."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(
                f"there is no system {text!r}; known are sync, async, ddp and ssp(N) with a bound such as 3"
            )
        return cls(match[1]) if match[1] else cls("ssp", int(match[2]))

    @property
    def is_ddp(self) -> bool:
        return self.mode == "ddp"

    @property
    def policy(self) -> dict[str, Any]:
        """What `PUT /v1/policy` takes."""
        return {"mode": self.mode} | ({} if self.bound is None else {"staleness": self.bound})

    @property
    def flags(self) -> list[str]:
        """Of `ps-serve`."""
        bound = [] if self.bound is None else ["--staleness", str(self.bound)]
        return ["--mode", self.mode, *bound]

    def __str__(self) -> str:
        return "DDP" if self.is_ddp else self.mode if self.bound is None else f"ssp({self.bound})"


DDP = System("ddp")
SYNC = System("sync")
ASYNC = System("async")
