from __future__ import annotations

import pytest

from leeway.ps.core.policies import Asynchronous, Quorum, Ssp, Sync
from leeway.ps.core.policies.policy import Policy, View


def members(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("policy", [Sync(), Quorum(2), Asynchronous(), Ssp(1)])
def test_every_policy_is_one(policy):
    assert members(Policy) == {
        *("terms", "has_rounds"),
        *("enter_clock", "caught_up", "pull", "push", "members", "awaited", "needed"),
        *("may_close", "deadline", "adopted", "opened"),
    }
    assert all(hasattr(policy, name) for name in members(Policy))


def test_a_group_shows_what_a_policy_may_see(serve):
    group = serve().machine.groups["default"]
    assert all(hasattr(group, name) for name in members(View))
