"""Judges a push by its name, so that it is applied at most once, whatever is re-sent or reconnects.

The one rule: what is remembered per incarnation and group is the *last* accepted push and no more. That is enough,
because the push of iteration c + 1 needs the pull of c + 1, which needs the answer to c. So the memory is bounded by
the number of workers, not by time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.codes import Code
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.refusals import Refused, refuse

if TYPE_CHECKING:
    from leeway.protocol.pushes import Push
    from leeway.ps.core.lives import Incarnation
    from leeway.ps.core.progress import Progress, Record


@dataclass(frozen=True, slots=True)
class Fresh:
    """Not seen before, and in its place: it may be taken."""

    member: Incarnation
    progress: Progress


@dataclass(frozen=True, slots=True)
class Repeat:
    """The incarnation's last push again: it gets the same disposition, when it has fallen."""

    member: Incarnation
    record: Record


@dataclass(frozen=True, slots=True)
class StagedAgain:
    """A part that is staged already."""

    member: Incarnation
    progress: Progress


Verdict = Fresh | Repeat | StagedAgain | Refused


def judge(member: Incarnation, push: Push) -> Verdict:
    """Judge a push of the right epoch of a known incarnation, in the contract's order (*Pairing*)."""
    progress = member.groups.get(push.group)
    if progress is None:
        return not_joined(member, push.group)
    record = progress.record
    # Of a replica any stage's, whatever the record was made of: one of them may have skipped.
    if record and push.clock == record.clock and (push.parts == record.parts or member.is_replica):
        return Repeat(member, record)
    if progress.has_passed(push.clock) and not member.ended:
        # Its grant was on its way when it was moved on: it is late, whatever it was computed from.
        return Fresh(member, progress)
    if push.clock < progress.clock or (record and push.clock == record.clock):
        return refuse(
            Code.SUPERSEDED,
            f"iteration {push.clock} of {member} was pushed already, its clock is {progress.clock}; go on from there",
            clock=progress.clock,
        )
    if member.ended:
        return member.refusal(push.life.stage)
    if push.clock != progress.clock:
        return refuse(
            Code.WRONG_CLOCK,
            f"{member} pushed iteration {push.clock}, its clock is {progress.clock}: that one has to be pulled first",
            clock=progress.clock,
        )
    if not progress.grants:
        return refuse(
            Code.NOT_GRANTED,
            f"iteration {push.clock} of {member} was not granted; a push follows an answered pull of its iteration",
            clock=progress.clock,
        )
    if (push.version, push.round) not in progress.grants:
        return refuse(
            Code.NOT_GRANTED,
            f"iteration {push.clock} of {member} was granted with {_in_words(*progress.grants[-1])}, "
            f"not {_in_words(push.version, push.round)}",
            clock=progress.clock,
        )
    # A skip gives up the iteration, staged parts and all.
    return Fresh(member, progress) if push.kind is UpdateKind.SKIP else _judge_part(member, progress, push)


def _judge_part(member: Incarnation, progress: Progress, push: Push) -> Verdict:
    for _, other, _ in progress.staged.values():
        if (push.parts, push.version, push.round, push.kind, push.samples) != (
            other.parts,
            other.version,
            other.round,
            other.kind,
            other.samples,
        ):
            return refuse(
                Code.INCONSISTENT_PARTS,
                f"part {push.part + 1} of {push.parts} does not agree with part {other.part + 1} of {other.parts} "
                "on the number of parts, version, round, kind or samples",
            )
    if push.part in progress.staged:
        return StagedAgain(member, progress)
    keys = frozenset(push.keys)
    for _, other, _ in progress.staged.values():
        if shared := keys.intersection(other.keys):
            return refuse(
                Code.INCONSISTENT_PARTS,
                f"parts {other.part + 1} and {push.part + 1} both carry tensor {min(shared)!r}",
            )
    return Fresh(member, progress)


def not_joined(member: Incarnation, group: str) -> Refused:
    return refuse(Code.UNKNOWN_GROUP, f"{member} has not joined group {group!r}, only {', '.join(member.groups)}")


def _in_words(version: int, round_number: int | None) -> str:
    return f"version {version}" if round_number is None else f"version {version} in round {round_number}"
