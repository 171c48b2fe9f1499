"""A process's own things: a life, connections and a thread are not a forked child's, though it has the objects.

The one rule: a child that uses what is its parent's is told so at once, and touches nothing of it: sockets and what
waits on them are shared with the parent, the thread that serves them is not there.
"""

from __future__ import annotations

import os


class Home:
    """The process that something was made in. `what` names it for people."""

    __slots__ = ("_process", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()

    @property
    def here(self) -> bool:
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise `RuntimeError` in any other process."""
        if not self.here:
            raise RuntimeError(
                f"{self._what} was connected in process {self._process}, and this is process {os.getpid()}, forked from"
                " it: a child has no life and no connections of its parent's; call leeway.connect in the child, with a"
                " rank of its own"
            )
