"""Which ranks this process holds at which servers, so that it does not take one from itself.

The one rule: a rank is held until its client has ended, is closed, or is referred to by nobody else; whoever would take
it before is told what to give. At a prompt and in a notebook a cell that runs again takes the place of what it made.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.worker.blocking import BlockingClient

log = structlog.get_logger("worker.client")

_held: dict[tuple[str, str], weakref.ref[BlockingClient]] = {}
_lock = threading.Lock()


def _forget() -> None:
    """In a forked child nothing is held, and the lock may have been taken by a thread that is not there."""
    global _lock
    _lock = threading.Lock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def hold(url: str, rank: str, make: Callable[[], BlockingClient]) -> BlockingClient:
    """Make a client that holds `rank` at `url`. Raises `ValueError` when another one of this process does."""
    with _lock:
        _make_room(url, rank)
        client = make()
        _held[url, rank] = weakref.ref(client)
    return client


def _holder(url: str, rank: str) -> BlockingClient | None:
    reference = _held.get((url, rank))
    client = reference() if reference else None
    return None if client is None or client.ended else client


def _make_room(url: str, rank: str) -> None:
    if _holder(url, rank) is None:
        return
    # It may be garbage in a circle, for example in the frames of an exception.
    gc.collect()
    older = _holder(url, rank)
    if older is None:
        return
    if not _interactive():
        raise ValueError(
            f"this process already holds rank {rank} at {url}; give each session a rank of its own, connect(rank=...),"
            " or close the first one"
        )
    log.warning(
        "connected anew: the session before is closed",
        rank=rank,
        server=url,
        detail="to have two sessions at a time, give each a rank of its own: connect(rank=...)",
    )
    older.close(f"this session is closed: rank {rank} was connected anew in this process; give rank=... to have two")


def _interactive() -> bool:
    """Whether somebody types: Python's prompt, `code`, IPython and Jupyter set this."""
    return hasattr(sys, "ps1")
