"""Switches a group on a live run from one policy to another (the contract, *Switching*).

The one rule: between policies with rounds nothing but the policy changes; else the open round closes with what it
has, and rounds are counted anew from where the group will be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.pushes import UpdateKind
from leeway.ps.core import policies
from leeway.ps.core.decisions import in_words
from leeway.ps.core.effects import SwitchBegun
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
        """Raises `ValueError` for terms that make no policy, and for a policy under which nothing would ever be
        applied: the group's aggregation rule would make no step, or its workers push what can be no step.
        """
        group = self._group
        wanted = self.wanted(terms)
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
            at = group.switching_at
            assert at is not None
            group.rounds = Rounds(at)
            group.emit(SwitchBegun(group.name, wanted.terms, at, tuple(way.awaited(group))))

    def wanted(self, terms: PolicyTerms) -> Policy:
        """The policy of these terms. Raises `ValueError` as `to` does."""
        group, wanted = self._group, policies.make(terms)
        if misfit := self.misfit(wanted):
            remedy = (
                f"ask for a quorum of {group.least_updates} or more, or for none"
                if wanted.has_rounds
                else "start the server with --aggregation mean or sum for that"
            )
            raise ValueError(f"{misfit}: {remedy}")
        whole = [member.rank for member in group.roster if member.groups[group.name].kind is UpdateKind.MODEL]
        if whole and not wanted.has_rounds:
            raise ValueError(
                f"in group {group.name} whole weights (kind model) are pushed, by {in_words(whole)}; they are for"
                f" rounds, and under {wanted.terms.mode} each update is a step of its own: let these workers push"
                " deltas or gradients first, or leave"
            )
        return wanted

    def misfit(self, wanted: Policy) -> str | None:
        """Why the group's aggregation rule would never make a step under this policy; None: it would."""
        group, quorum = self._group, wanted.terms.quorum
        if group.needs_rounds and not wanted.has_rounds:
            return (
                f"the aggregation rule of group {group.name} is for rounds; under {wanted.terms.mode} each update"
                " is a step of its own, and nothing is aggregated"
            )
        if quorum is not None and quorum < group.least_updates:
            return (
                f"the aggregation rule of group {group.name} needs {group.least_updates} updates in a round, and a"
                f" quorum lets it close with {quorum}"
            )
        return None
