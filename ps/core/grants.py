"""Whether a pull is answered, and with what.

The one rule: what holds under every policy is judged here (there is something to read, it is new enough, it contains
the worker's own updates), and only then is the policy asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.reasons import Reason
from leeway.protocol.replies import Granted
from leeway.protocol.versions import Version
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.rounds import RoundState

if TYPE_CHECKING:
    from leeway.protocol.requests import Pull
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.groups import Group
    from leeway.ps.core.membership import Incarnation


def judge(group: Group, pull: Pull, member: Incarnation | None) -> Decision:
    """May this pull be answered now? `member` None: a reader's."""
    if not group.readable:
        return Park(Reason.NO_PARAMETERS, f"group {group.name} has no parameters yet; nobody has offered any")
    if group.published < pull.min_version:
        return Park(Reason.MIN_VERSION, f"version {pull.min_version} is not out, the newest is {group.published}")
    if member is None:
        return Answer(Reason.READER)
    if group.published < group.named_from:
        return Park(Reason.NO_PARAMETERS, f"group {group.name} is being given the names of the model")
    progress = member.groups[group.name]
    if group.published < progress.owed:
        return Park(Reason.OWN_UPDATE, f"version {progress.owed} with {member}'s own update is being made")
    return group.policy.pull(group, member.rank)


def grant(group: Group, pull: Pull, member: Incarnation | None, decision: Answer, now: float) -> Granted:
    """Answer with the newest version, and remember for the push what it was answered with."""
    version = Version(group.epoch, group.published)
    unchanged = pull.since == version
    if member is None:
        return Granted(version, decision.reason, count=group.live_workers, unchanged=unchanged)
    progress = member.groups[group.name]
    round_number = group.rounds.number if group.rounds.state is RoundState.OPEN else None
    if not progress.grants:
        progress.granted_at = now
    if (group.published, round_number) not in progress.grants:
        progress.grants.append((group.published, round_number))
    return Granted(
        version,
        decision.reason,
        clock=progress.clock,
        round=round_number,
        lag=progress.clock - group.min_clock,
        index=group.roster.index_of(member.rank),
        count=group.live_workers,
        unchanged=unchanged,
        step_failed=progress.record is not None and progress.record.step_failed,
        too_few=progress.record is not None and progress.record.too_few,
    )
