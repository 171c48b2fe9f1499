"""How many connections a server can have: each takes one of the file descriptors that the system lets a process have.

The one rule: connections never get all of them. A checkpoint can always be opened, and a connection that is one too
many is accepted, so that something can be done about it: what the system refuses for want of a descriptor is a reset,
without a word in any log.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from leeway.protocol.limits import MAX_CONNECTIONS

# The server's own, about twenty from the start on, and checkpoints, history and downloads as they come; and connections
# that are being closed to make room.
_BESIDE = 128


def raise_limit() -> None:
    """Let this process have as many descriptors as it may give itself, or as it can make use of."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _BESIDE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has a further limit that it does not tell.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """The connections that there may be at once."""
    if sys.platform == "win32":  # where sockets are no file descriptors
        return MAX_CONNECTIONS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(soft // 2, soft - _BESIDE))
