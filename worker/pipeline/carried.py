"""How much a stage has handed over and taken: counts, for its metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Carried:
    """Since the door was opened. Bytes are those of the frames, once for each time that one was sent or came whole.

    `sending_seconds`: of each handover from its first attempt to its answer, added up; several are under way at once.
    `in_flight` and `waiting` are now: sent and not answered, come and not received.
    """

    sent: int = 0
    sent_bytes: int = 0
    sent_again: int = 0
    sending_seconds: float = 0.0
    received: int = 0
    received_bytes: int = 0
    in_flight: int = 0
    waiting: int = 0
