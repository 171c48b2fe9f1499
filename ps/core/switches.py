"""Switches a group on a live run from one policy to another (the contract, *Switching*).

The one rule: between policies with rounds nothing but the policy changes; else the open round closes with what it
has, and rounds are counted anew from where the group will be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.ps.core import policies
from leeway.ps.core.rounds import Rounds, RoundState

if TYPE_CHECKING:
    from leeway.protocol.policy_terms import PolicyTerms
    from leeway.ps.core.policies.policy import Policy
    from leeway.ps.core.round_keeper import RoundKeeper
    from leeway.ps.core.situation import Situation


class Switches:
    def __init__(self, group: Situation, keeper: RoundKeeper) -> None:
        self._group = group
        self._keeper = keeper

    def to(self, terms: PolicyTerms) -> None:
        """Raises `ValueError` for terms that make no policy, and for a policy under which the group's aggregation
        rule means nothing.
        """
        group = self._group
        wanted = policies.make(terms)
        self.check_rule(wanted)
        if wanted == group.policy.opened():
            return
        if group.policy.has_rounds and wanted.has_rounds:
            group.put_in_force(wanted)
            return
        if group.rounds.state is RoundState.OPEN:
            self._keeper.close()
        way = wanted.adopted(group)
        if way is wanted:
            group.put_in_force(wanted)
            group.rounds = Rounds(group.rounds.next_number)
        else:
            group.policy = way
            assert group.switching_at is not None
            group.rounds = Rounds(group.switching_at)

    def check_rule(self, wanted: Policy) -> None:
        """Raise `ValueError` when the group's aggregation rule means nothing under this policy."""
        if self._group.needs_rounds and not wanted.has_rounds:
            raise ValueError(
                f"the aggregation rule of group {self._group.name} is for rounds; under {wanted.terms.mode} each update"
                " is a step of its own, and nothing is aggregated: start the server with --aggregation mean or sum for"
                " that"
            )
