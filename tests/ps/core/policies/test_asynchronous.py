from __future__ import annotations

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.policies import Asynchronous


def test_a_pull_is_answered_however_far_ahead(group_of):
    assert Asynchronous().pull(group_of(w0=10**6, w1=0), "w0") == Answer(Reason.GRANTED)


def test_without_rounds_nobody_is_awaited_to_open_one(group_of):
    assert list(Asynchronous().awaited(group_of(w0=10, w1=0))) == []


def test_nobody_begins_before_all_have_joined(group_of):
    view = group_of(w0=0)
    view.assembled = False
    words = "the run begins when 2 workers have joined, 1 have so far"
    assert Asynchronous().pull(view, "w0") == Park(Reason.WAITING_FOR_WORKERS, words)
