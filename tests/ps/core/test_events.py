from __future__ import annotations

import pytest

from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick

LIFE = Life("w0", 1, 2)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Asked(1, Heartbeat(LIFE)), "heartbeat w0#2"),
        (Gone(7), "gone 7"),
        (Published("default", 3), "published default v3"),
        (Failed("default", 3), "failed default v3"),
        (Tick(), "tick"),
        (Paused(2.5), "paused 2.5 s"),
        (Stop(), "stop"),
    ],
)
def test_events_read_well(event, words):
    assert str(event) == words
