from __future__ import annotations

import pytest

from leeway.protocol import limits
from leeway.protocol.policy_terms import MODES, PolicyTerms
from leeway.ps.core import policies
from leeway.ps.core.policies import Asynchronous, Ssp, Sync
from leeway.ps.core.policies.policy import Reception


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_makes_the_policy_of_its_name(mode):
    bound = 2 if mode == "ssp" else None
    terms = PolicyTerms(mode, bound)
    policy = policies.make(terms)
    assert policy.terms == terms
    assert policy == policies.make(terms)


def test_only_sync_has_rounds(group_of):
    view = group_of(w0=3, w1=3)
    view.rounds.open(["w0", "w1"])
    found = [(one.push(view, "w0"), tuple(one.members(view))) for one in (Sync(), Asynchronous(), Ssp(0))]
    assert found == [(Reception.IN_ROUND, ("w0", "w1")), (Reception.ON_ARRIVAL, ()), (Reception.ON_ARRIVAL, ())]
    assert [one.has_rounds for one in (Sync(), Asynchronous(), Ssp(0))] == [True, False, False]
    assert not any(one.may_close(view, 0.0) for one in (Asynchronous(), Ssp(0)))
    assert [one.deadline(view) for one in (Sync(), Asynchronous(), Ssp(0))] == [None, None, None]


@pytest.mark.parametrize("bound", [0, limits.MAX_STALENESS])
def test_the_bounds_of_the_bound(bound):
    assert policies.make(PolicyTerms("ssp", bound)) == Ssp(bound)
