from __future__ import annotations

import pytest

from leeway.protocol import limits
from leeway.ps.core import policies
from leeway.ps.core.policies import Asynchronous, Ssp, Sync
from leeway.ps.core.policies.policy import Reception


@pytest.mark.parametrize("mode", policies.MODES)
def test_each_mode_makes_the_policy_of_its_name(mode):
    bound = 2 if mode == "ssp" else None
    policy = policies.make(mode, bound)
    assert (policy.mode, policy.staleness) == (mode, bound)
    assert policy == policies.make(mode, bound)


def test_only_sync_has_rounds(group_of):
    view = group_of(w0=3, w1=3)
    view.rounds.open(["w0", "w1"])
    found = [(one.push(view, "w0"), tuple(one.members(view))) for one in (Sync(), Asynchronous(), Ssp(0))]
    assert found == [(Reception.IN_ROUND, ("w0", "w1")), (Reception.ON_ARRIVAL, ()), (Reception.ON_ARRIVAL, ())]
    assert [one.has_rounds for one in (Sync(), Asynchronous(), Ssp(0))] == [True, False, False]
    assert not any(one.may_close(view, 0.0) for one in (Asynchronous(), Ssp(0)))
    assert [one.deadline(view) for one in (Sync(), Asynchronous(), Ssp(0))] == [None, None, None]


@pytest.mark.parametrize(
    ("mode", "bound", "words"),
    [
        ("gossip", None, "unknown policy 'gossip': choose one of sync, async, ssp"),
        ("sync", 1, "policy sync takes no staleness bound"),
        ("async", 0, "policy async takes no staleness bound"),
        ("ssp", None, "policy ssp needs a staleness bound"),
        ("ssp", -1, "the staleness bound is -1, it must be from 0 to 1000000"),
        ("ssp", limits.MAX_STALENESS + 1, "the staleness bound is 1000001"),
    ],
)
def test_what_makes_no_policy_is_said(mode, bound, words):
    with pytest.raises(ValueError, match=words):
        policies.make(mode, bound)


@pytest.mark.parametrize("bound", [0, limits.MAX_STALENESS])
def test_the_bounds_of_the_bound(bound):
    assert policies.make("ssp", bound).staleness == bound
