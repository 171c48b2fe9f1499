from __future__ import annotations

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer
from leeway.ps.core.policies import Asynchronous


def test_a_pull_is_answered_however_far_ahead(group_of):
    assert Asynchronous().pull(group_of(w0=10**6, w1=0), "w0") == Answer(Reason.GRANTED)
