"""How workers start together: a barrier that each comes to before its first pull.

The one rule: whoever has pulled may be in the open round, and the others would wait for it in the next one while it
waits for them here. So nobody has pulled yet, and where it stands among them all is told with the first pull.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.worker import arguments

if TYPE_CHECKING:
    from leeway.worker.blocking import BlockingClient

# A worker that comes back finds it passed and goes on at once.
START_BARRIER = "start"


class Start:
    """When `together` workers are there; 1: at once. Raises `ValueError`."""

    def __init__(self, together: int = 1) -> None:
        self._together = arguments.parties(together, "start_together")

    def wait(self, client: BlockingClient) -> None:
        """Wait for the others, unless the start of this server's run is over, or the run itself."""
        passed = client.client.barriers.get(START_BARRIER, 0) > 0
        if self._together > 1 and not client.client.ended and not passed:
            try:
                client.barrier(START_BARRIER, self._together)
            except ValueError:
                # As of a run that was over when this worker joined: its pull is told so.
                if not client.client.ended:
                    raise
