"""The secrets by which the stages of a replica know each other: one for each life, drawn by the server that begins it.

The one rule: a secret is in the replies to joins and nowhere else; the machine, the history and the checkpoints have
none.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from leeway.protocol.membership import Join

if TYPE_CHECKING:
    from leeway.protocol.membership import Joined
    from leeway.protocol.messages import Request


class Secrets:
    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def told(self, joined: Joined, join: Request) -> Joined:
        """The reply with the secret of the life that it tells of: HMAC-SHA256 (RFC 2104) of its name, in hex."""
        assert isinstance(join, Join)
        assert joined.replica is not None
        life = f"{join.rank}#{joined.incarnation} of {joined.epoch}"
        secret = hmac.new(self._key, life.encode(), hashlib.sha256).hexdigest()
        return replace(joined, replica=replace(joined.replica, secret=secret))
