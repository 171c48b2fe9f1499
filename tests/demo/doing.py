"""What a worker does, in the words of ps-top; of a wait for others no more than for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leeway.ps.top import words

if TYPE_CHECKING:
    from collections.abc import Mapping


def doing(progress: Mapping[str, Any]) -> str:
    """`progress`: the worker's in a group, as `GET /v1/status` gives it."""
    whom = progress.get("why", {}).get("waiting_for")
    return f"waits for {words.names(whom)}" if whom else words.doing(progress, None)
