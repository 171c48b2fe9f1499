"""Which ranks this process holds at which servers, so that it does not take one from itself.

The one rule: a rank is held until its client has ended, is closed, or is referred to by nobody else; whoever would take
it before is told what to give. At a prompt and in a notebook a cell that runs again takes the place of what it made.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.worker.blocking import BlockingClient

log = structlog.get_logger("worker.client")

# In the order in which they came; the first that has not ended holds the rank. There is no lock that an interrupt could
# leave taken: whoever comes puts itself in the queue, which is one step, and then looks at those before it.
_queues: dict[tuple[str, str], deque[weakref.ref[BlockingClient]]] = {}

if hasattr(os, "register_at_fork"):
    # In a forked child nothing is held.
    os.register_at_fork(after_in_child=_queues.clear)


def hold(url: str, rank: str, make: Callable[[], BlockingClient]) -> BlockingClient:
    """Make a client that holds `rank` at `url`. Raises `ValueError` when another one of this process does."""
    client = make()
    try:
        queue = _queues.setdefault((url, rank), deque())
        queue.append(mine := weakref.ref(client))
        _make_room(queue, mine, url, rank)
    except BaseException:
        client.close()
        raise
    return client


def _holder(queue: deque[weakref.ref[BlockingClient]], mine: weakref.ref[BlockingClient]) -> BlockingClient | None:
    """Who was there before. Those that have ended are taken out."""
    for reference in list(queue):
        if reference is mine:
            break
        client = reference()
        if client is not None and not client.ended:
            return client
        with contextlib.suppress(ValueError):  # by another thread
            queue.remove(reference)
    return None


def _make_room(
    queue: deque[weakref.ref[BlockingClient]], mine: weakref.ref[BlockingClient], url: str, rank: str
) -> None:
    if _holder(queue, mine) is None:
        return
    # It may be garbage in a circle, for example in the frames of an exception.
    gc.collect()
    older = _holder(queue, mine)
    if older is None:
        return
    if not _interactive():
        raise ValueError(
            f"this process already holds rank {rank} at {url}: several models are parts of one session,"
            " attach({'G': ..., 'D': ...}); else close the first one, or give each a rank of its own, connect(rank=...)"
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
