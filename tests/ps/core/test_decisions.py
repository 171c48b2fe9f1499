from __future__ import annotations

import pytest

from leeway.protocol.pulls import NotYet
from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Park, in_words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "nobody"),
        (1, "w0"),
        (3, "w0,w1,w2"),
        (8, "w0,w1,w2,w3,w4,w5,w6,w7"),
        (9, "w0,w1,w2,w3,w4,w5,w6,w7 and 1 more"),
    ],
)
def test_names_in_words(count, words):
    assert in_words(f"w{number}" for number in range(count)) == words


def test_a_park_is_told_with_its_reason_and_for_whom():
    assert Park(Reason.LAG, "why", ("w1",)).to_reply() == NotYet(Reason.LAG, "why", ("w1",))
