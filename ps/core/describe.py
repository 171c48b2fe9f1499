"""The machine's state in words and as JSON: what `GET /v1/status` and the golden scenarios show.

The one rule: it answers "why am I waiting, and for whom?" from the same decisions the machine made.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from leeway.protocol import limits
from leeway.ps.core.rounds import RoundState

if TYPE_CHECKING:
    from leeway.ps.core.groups import Group
    from leeway.ps.core.lives import Incarnation, Seat
    from leeway.ps.core.machine import Machine


def status(machine: Machine, now: float) -> dict[str, Any]:
    """Everything about the run that a person may ask, JSON-ready. Clocks in iterations, times in seconds.

    `workers` are the live ones in natural order, as many as `MAX_STATUS_ROWS` has room for; `live_workers` counts all.
    """
    live = machine.membership.live()
    most = limits.MAX_STATUS_ROWS // len(machine.groups)
    if any(member.is_replica for member in live):
        most //= 2  # a row of 64 stages is half as long again as the longest of a worker
    return {
        "epoch": machine.epoch,
        "until": machine.settings.until,
        "stopping": machine.stopping,
        "over": machine.over,
        "finished": machine.finished,
        "groups": {name: _group(group) for name, group in machine.groups.items()},
        "live_workers": len(live),
        "forming": [_forming(machine, rank) for rank in list(machine.joins.forming)[:most]],
        "workers": [_worker(machine, member, now) for member in live[:most]],
        "barriers": machine.barriers.generations(),
        "quarantine": [
            {"rank": rank, "why": why}
            for rank, why in islice(machine.quarantines.why.items(), limits.MAX_QUARANTINE_ROWS)
        ],
        "quarantined": len(machine.quarantines.why),
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "policy": group.policy_state().to_fields(),
        "until": group.until,
        "version": group.published,
        "min_clock": group.min_clock,
        "tensors": len(group.specs),
        "round": {
            "number": group.rounds.number,
            "state": str(group.rounds.state),
            "waits_for": list(islice(group.rounds.missing, limits.MAX_NAMED_WAITERS)),
        },
        "readers_waiting": len(group.waiting) - len(group.waiting.members),
    }


def _forming(machine: Machine, rank: str) -> dict[str, Any]:
    """A replica that waits for stages."""
    forming = machine.joins.forming[rank]
    return {"rank": rank, "stages": forming.stages, "missing": list(forming.missing)}


def _worker(machine: Machine, member: Incarnation, now: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": member.rank,
        "incarnation": member.number,
        "lease_left_seconds": round(machine.membership.lease_left(member, now), 3),
        "groups": {name: _progress(machine.groups[name], member) for name in member.groups},
    }
    if member.is_replica:
        (group,) = (machine.groups[name] for name in member.groups)
        row["stages"] = [_stage(machine, group, member, seat, now) for seat in member.seats]
    return row


def _stage(machine: Machine, group: Group, member: Incarnation, seat: Seat, now: float) -> dict[str, Any]:
    """What one stage of a replica does; `pushed`: its part is there, and others are not."""
    if seat.left:
        state = "left"
    elif group.waiting.of_stage(member, seat.stage):
        state = "waiting"
    elif seat.stage in member.groups[group.name].staged:
        state = "pushed"
    else:
        state = "computing" if member.groups[group.name].computing else "idle"
    left = machine.membership.seat_left(seat, now)
    return {"stage": seat.stage, "state": state, "lease_left_seconds": round(left, 3)}


def _progress(group: Group, member: Incarnation) -> dict[str, Any]:
    progress = member.groups[group.name]
    waiting = group.waiting.of(member)
    row: dict[str, Any] = {
        "clock": progress.clock,
        "lag": progress.clock - group.min_clock,
        "state": "waiting" if waiting else "computing" if progress.computing else "idle",
    }
    if waiting:
        row["why"] = group.pulls.why(waiting).to_reply().to_fields()
    return row


def line(machine: Machine) -> str:
    """One line per group, as it stands in golden files: `w0@3* w1@2 min=2 v5`; `*` = the pull is answered."""
    return " | ".join(_line(group) for group in machine.groups.values())


def _line(group: Group) -> str:
    workers = [
        f"{member.rank}@{group.clock_of(member.rank)}{'*' if member.groups[group.name].grants else ''}"
        f"{' (waits)' if group.waiting.of(member) else ''}"
        for member in group.roster
    ]
    version = f"v{group.published}" + (f"..{group.decided}" if group.decided > group.published else "")
    rounds = ""
    if group.policy.has_rounds:
        missing = ",".join(group.rounds.missing)
        is_open = group.rounds.state is RoundState.OPEN
        rounds = f" round {group.rounds.number} {f'waits for {missing}' if is_open else group.rounds.state}"
    return f"{' '.join(workers) or 'nobody'}  min={group.min_clock} {version}{rounds}"
