"""The machine's state as plain data, for checkpoints, and back.

The one rule: what is saved is the state *as if everything in flight were published*, because the arithmetic of the
same checkpoint is taken after exactly that. Parked requests, staged parts and leases are not saved: clients ask again.
Bodies of held contributions are referred to by their place in the list that `save` returns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.replicas import Place
from leeway.protocol.schema import Sizes
from leeway.protocol.tensors import TensorSpec
from leeway.protocol.versions import Version
from leeway.ps.core import policies
from leeway.ps.core.consistency import check
from leeway.ps.core.in_flight import OnArrival
from leeway.ps.core.joins import REMEMBERED_PROCESSES
from leeway.ps.core.lives import Incarnation, Seat
from leeway.ps.core.machine import Machine
from leeway.ps.core.policies.switching import Switching
from leeway.ps.core.progress import Progress, Record
from leeway.ps.core.roster import Roster
from leeway.ps.core.rounds import Held, Rounds, RoundState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leeway.ps.core.groups import Group
    from leeway.ps.core.settings import Settings

FORMAT = 1


def save(machine: Machine) -> tuple[dict[str, Any], list[int]]:
    """The state as JSON-ready data, and the bodies it refers to, by their requests' numbers."""
    bodies: list[int] = []
    state = {
        "format": FORMAT,
        "epoch": machine.epoch,
        "finished": machine.finished,
        "barriers": machine.barriers.generations(),
        "parts": list(machine.parts),
        "quarantine": dict(machine.quarantines.why),
        "groups": {name: _save_group(group, bodies) for name, group in machine.groups.items()},
        "ranks": {
            rank: {
                "incarnations": count,
                "lives": [_save_life(machine, life) for life in lives],
                "committed": dict(machine.membership.committed(rank)),
            }
            for rank, (count, lives) in machine.membership.remembered().items()
        },
        "processes": {
            rank: {str(stage): list(known) for stage, known in stages.items()}
            for rank, stages in machine.joins.processes.items()
        },
    }
    return state, bodies


def _save_group(group: Group, bodies: list[int]) -> dict[str, Any]:
    held = {}
    for rank, contribution in group.rounds.held.items():
        places = [len(bodies) + place for place in range(len(contribution.bodies))]
        bodies.extend(contribution.bodies)
        held[rank] = {"kind": str(contribution.kind), "samples": contribution.samples, "bodies": places}
    rounds = group.rounds
    is_open = rounds.state is RoundState.OPEN
    return {
        "version": group.decided,
        "min_clock": _min_clock_when_published(group),
        **group.policy_state().terms.to_fields(),
        "switching_at": group.switching_at,
        "started": group.started,
        "assembled": group.assembled,
        "arrived": sorted(group.arrived),
        "schema_closed": group.schema_closed,
        "whole": group.whole,
        "declared": None if group.declared is None else [spec.to_row() for spec in group.declared.values()],
        "holds": group.holds or None,
        "from_file": group.from_file,
        "specs": [spec.to_row() for spec in group.specs.values()],
        "round": rounds.number if is_open else rounds.next_number,
        "missing": sorted(rounds.missing) if is_open else None,
        "held": held,
    }


def _clock_when_published(group: Group, life: Incarnation) -> int:
    pending = any(isinstance(step, OnArrival) and step.member is life for step in group.in_flight.values())
    return life.groups[group.name].clock + pending


def _min_clock_when_published(group: Group) -> int:
    clocks = [_clock_when_published(group, life) for life in group.roster]
    return min(clocks, default=group.min_clock)


def _save_life(machine: Machine, life: Incarnation) -> dict[str, Any]:
    groups = {}
    for name, progress in life.groups.items():
        group = machine.groups[name]
        record = progress.record
        clock = _clock_when_published(group, life)
        groups[name] = {
            "clock": clock,
            "passed": progress.passed if clock == progress.clock else None,
            "grants": [list(grant) for grant in progress.grants] if clock == progress.clock else [],
            "granted": progress.granted.to_fields() if progress.granted and clock == progress.clock else None,
            "owed": progress.owed,
            "kind": progress.kind and str(progress.kind),
            "record": record
            and {
                "clock": record.clock,
                "parts": record.parts,
                "reason": str(record.reason),
                "disposition": str(record.disposition or Disposition.APPLIED),
                "version": record.version,
                "staleness": record.staleness,
                "step_failed": record.step_failed,
                "too_few": record.too_few,
                "next_clock": record.next_clock,
            },
        }
    return {
        "number": life.number,
        "session": life.seats[0].session,
        "seats": [_save_seat(seat) for seat in life.seats] if life.is_replica else None,
        "culprit": life.culprit,
        "ended": life.ended and str(life.ended),
        "ended_detail": life.ended_detail,
        "one_after_another": life.one_after_another,
        "revision": life.revision,
        "groups": groups,
    }


def _save_seat(seat: Seat) -> dict[str, Any]:
    assert seat.place is not None
    return {"session": seat.session, "left": seat.left, "place": seat.place.to_fields()}


def restore(settings: Settings, state: dict[str, Any], bodies: Sequence[int], epoch: int, now: float) -> Machine:
    """A machine that goes on from `state`: saved workers are live again with fresh leases.

    `bodies`: the numbers under which the bodies of `save`'s list are known now. `epoch` is the saved one after a
    clean stop, else a new one. The policies are the saved ones, which may have been switched on the live run.
    Raises `ValueError` when the state cannot be true, or does not fit the settings.
    """
    if state.get("format") != FORMAT:
        raise ValueError(f"saved state has format {state.get('format')!r}, this version reads {FORMAT}")
    check(state, len(bodies))
    machine = Machine(settings, epoch, now)
    # A part that workers have made may have settings of its own by now. States of before there were parts have none.
    for name in state.get("parts") or ():
        if name not in machine.groups:
            machine.create(name)
    if gone := [name for name in state["groups"] if name not in machine.groups]:
        raise ValueError(
            f"what is saved has the group {gone[0]}, and the settings have none; give [group.{gone[0]}] back"
        )
    if new := [name for name in machine.groups if name not in state["groups"]]:
        raise ValueError(f"the settings have [group.{new[0]}], and what is saved has no such group; leave it out")
    machine.barriers.restore(state["barriers"])
    machine.quarantines.why = dict(state.get("quarantine") or {})
    for name, saved_group in state["groups"].items():
        _restore_group(machine.groups[name], saved_group, bodies, state["ranks"], now)
    for rank, saved_rank in state["ranks"].items():
        lease_until = now + settings.lease_seconds
        lives = [_restore_life(rank, saved, lease_until, machine.groups) for saved in saved_rank["lives"]]
        # States of before this was counted say nothing of it.
        machine.membership.remember(rank, saved_rank["incarnations"], lives, saved_rank.get("committed") or {})
    machine.joins.processes = {
        rank: {int(stage): deque(known, maxlen=REMEMBERED_PROCESSES) for stage, known in stages.items()}
        for rank, stages in (state.get("processes") or {}).items()
    }
    for name, group in machine.groups.items():
        # The slowest first: whoever enters alone is the minimum, which never goes back.
        members = [(life.groups[name], life) for life in machine.membership.live() if name in life.groups]
        for progress, life in sorted(members, key=lambda member: member[0].clock):
            progress.granted_at = now
            group.roster.put(life, progress)
    return machine


def _restore_group(
    group: Group, saved: dict[str, Any], bodies: Sequence[int], ranks: dict[str, Any], now: float
) -> None:
    specs = [TensorSpec.read(row) for row in saved["specs"]]
    group.specs = {spec.name: spec for spec in specs}
    group.sizes = Sizes.of(specs, group.name)
    group.decided = group.published = saved["version"]
    # States of before there were stages have declared nothing.
    if saved.get("declared") is not None:
        group.declared = {spec.name: spec for spec in map(TensorSpec.read, saved["declared"])}
        group.holds = saved.get("holds") or ""
    group.readable = bool(specs) and (group.declared is None or saved["whole"])
    group.started, group.schema_closed = saved["started"], saved["schema_closed"]
    # Checkpoints of before this was saved: a run that had begun goes on, for another the ranks speak for themselves.
    joined = [
        rank for rank, saved_rank in ranks.items() if any(group.name in life["groups"] for life in saved_rank["lives"])
    ]
    group.arrived = set(joined if saved.get("arrived") is None else saved["arrived"])
    assembled = group.started or len(group.arrived) >= group.workers
    group.assembled = assembled if saved.get("assembled") is None else saved["assembled"]
    # States of before this was known: a whole offer is compared with the keys that are there in any case.
    group.whole, group.from_file = bool(saved.get("whole")), bool(saved.get("from_file"))
    group.roster = Roster(group.name, saved["min_clock"])
    # States of before there were quorums have none.
    terms = PolicyTerms(saved["mode"], saved["staleness"], saved.get("quorum"), saved.get("grace_seconds"))
    policy = policies.make(terms)
    group.policy = policy if saved["switching_at"] is None else Switching(policy, saved["switching_at"])
    if misfit := group.switches.misfit(policy):
        raise ValueError(
            f"the policy is that of the checkpoint, {terms}, whatever --mode and --quorum say, and {misfit}: resume"
            " with --aggregation mean, change the policy with PUT /v1/policy, stop, and resume with this rule; or begin"
            " a new run from the checkpoint's values, with --init in place of --resume"
        )
    group.rounds = Rounds(saved["round"])
    if saved["missing"] is not None:
        held = {
            rank: Held(
                UpdateKind(contribution["kind"]),
                contribution["samples"],
                tuple(bodies[place] for place in contribution["bodies"]),
            )
            for rank, contribution in saved["held"].items()
        }
        group.rounds.reopen(saved["missing"], held, now)


def _restore_life(rank: str, saved: dict[str, Any], lease_until: float, groups: Mapping[str, Group]) -> Incarnation:
    # Lives of before there were replicas say nothing of seats.
    if saved.get("seats"):
        seats = [
            Seat(seat["session"], lease_until, Place.read(seat["place"]), left=seat["left"]) for seat in saved["seats"]
        ]
    else:
        seats = [Seat(saved["session"], lease_until)]
    life = Incarnation(rank, saved["number"], tuple(seats), culprit=saved.get("culprit"))
    life.ended = Reason(saved["ended"]) if saved["ended"] else None
    life.ended_detail = saved["ended_detail"]
    # Lives of before there were parts have one group each, or say nothing of how they ask.
    life.one_after_another = bool(saved.get("one_after_another"))
    life.revision = saved.get("revision") or 0
    for name, saved_progress in saved["groups"].items():
        progress = Progress(saved_progress["clock"], saved_progress.get("passed"), owed=saved_progress["owed"])
        progress.grants.extend((version, number) for version, number in saved_progress["grants"])
        # States of before this was known say nothing of it.
        if saved_progress.get("kind"):
            progress.kind = UpdateKind(saved_progress["kind"])
        # What has been superseded by now is gone: only what the stages hold can be pushed.
        granted = Granted.read(saved_progress["granted"]) if saved_progress.get("granted") else None
        if granted and granted.version.number == groups[name].published:
            progress.granted = replace(granted, version=Version(groups[name].epoch, granted.version.number))
        if saved_progress["record"]:
            record = saved_progress["record"]
            progress.record = Record(
                record["clock"],
                record["parts"],
                Reason(record["reason"]),
                Disposition(record["disposition"]),
                record["version"],
                record["staleness"],
                record.get("step_failed", False),
                record.get("too_few", False),
                record.get("next_clock"),
            )
        life.groups[name] = progress
    return life
