"""Whether a saved state can be true: types, and numbers that refer to each other.

The one rule: a state that `saved.save` makes passes, and one that passes can be restored and served. What does not
pass is refused with the place where it is wrong; nothing is mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER, Fields
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.quarantine import MAX_WHY
from leeway.protocol.ranks import is_rank
from leeway.protocol.reasons import Reason
from leeway.protocol.replicas import Place
from leeway.protocol.tensors import TensorSpec
from leeway.ps.core.joins import REMEMBERED_PROCESSES
from leeway.ps.core.membership import REMEMBERED_LIVES
from leeway.ps.core.progress import REMEMBERED_GRANTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ENDINGS = (
    Reason.LEFT,
    Reason.NEW_SESSION,
    Reason.LEASE_EXPIRED,
    Reason.ITERATION_TOO_LONG,
    Reason.GRANT_LOST,
    Reason.QUARANTINED,
)


class _Exact(Fields):
    """Fields of our own writing: a number is no text, and a flag no number."""

    def integer(self, name: str, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        if type(value := self._get(name)) is not int:
            raise self._refuse(name, value, "an integer")
        return super().integer(name, minimum, maximum)

    def flag(self, name: str) -> bool:
        if type(value := self._get(name)) is not bool:
            raise self._refuse(name, value, "true or false")
        return bool(value)

    def has(self, *names: str) -> None:
        """They stand there, if only as null: without them it is not of our writing."""
        for name in names:
            if name not in self._mapping:
                raise MalformedRequest(f"{self._where}: {name!r} is missing")


def check(state: Mapping[str, Any], bodies: int) -> None:
    """`bodies`: how many bodies of held contributions were saved with it. Raises `ValueError`."""
    try:
        used = _check(_Exact(state, "the state"))
    except WireError as error:
        raise ValueError(error.detail) from None
    if sorted(used) != list(range(bodies)):
        raise ValueError(f"contributions refer to the bodies {sorted(used)}, and there are {bodies}")


def _check(fields: _Exact) -> list[int]:
    fields.integer("epoch")
    fields.flag("finished")
    barriers = fields.mapping("barriers", limits.MAX_BARRIERS)
    for name in barriers:
        _Exact(barriers, "barriers").integer(name)
    groups = {
        name: _Exact(group, f"group {name!r}") for name, group in fields.mapping("groups", limits.MAX_GROUPS).items()
    }
    for name in fields.listing("parts", limits.MAX_GROUPS) if "parts" in fields else ():
        _must(name in groups, f"there is no group {name!r}, which a worker has made")
    for rank, stages in (fields.mapping("processes", limits.MAX_RANKS) if "processes" in fields else {}).items():
        _must(is_rank(rank) and isinstance(stages, dict), f"{rank!r} is no rank with stages")
        for stage in stages:
            known = _Exact(stages, f"the stages of {rank!r}").listing(stage, REMEMBERED_PROCESSES)
            _must(stage.isdecimal() and int(stage) < limits.MAX_STAGES, f"{rank!r} has no stage {stage!r}")
            _must(all(isinstance(one, str) for one in known), f"a process of stage {stage} of {rank!r} has no id")
    kept_out = fields.mapping("quarantine", limits.MAX_RANKS) if "quarantine" in fields else {}
    for rank in kept_out:
        _must(is_rank(rank), f"{rank!r} is in quarantine, and is no rank")
        _Exact(kept_out, "the quarantine").text(rank, MAX_WHY)
    lives: dict[str, dict[str, int]] = {name: {} for name in groups}
    for rank, saved in fields.mapping("ranks", limits.MAX_RANKS).items():
        _check_rank(rank, _Exact(saved, f"rank {rank!r}"), groups, lives)
    return [place for name, group in groups.items() for place in _check_group(name, group, lives[name])]


def _check_group(name: str, group: _Exact, clocks: Mapping[str, int]) -> Iterable[int]:
    """`clocks`: of the live workers. Returns the places of the bodies that its round holds."""
    group.has("staleness", "switching_at", "missing")
    version, least = group.integer("version"), group.integer("min_clock")
    staleness = group.integer("staleness") if "staleness" in group else None
    quorum = group.integer("quorum") if "quorum" in group else None
    grace_seconds = group.number("grace_seconds") if "grace_seconds" in group else None
    PolicyTerms(group.text("mode"), staleness, quorum, grace_seconds).check()
    specs = [TensorSpec.read(row) for row in group.listing("specs", limits.MAX_TENSORS)]
    _must(len({spec.name for spec in specs}) == len(specs), f"group {name!r} has a key twice")
    _must(version > 0 or not specs, f"group {name!r} has keys, and no version")
    group.flag("started"), group.flag("schema_closed")
    # Absent in states of before there were these.
    for name_of_flag in ("whole", "from_file", "assembled"):
        if name_of_flag in group:
            group.flag(name_of_flag)
    for rank in group.listing("arrived", limits.MAX_RANKS) if "arrived" in group else ():
        _must(isinstance(rank, str) and is_rank(rank), f"group {name!r}: {rank!r} has arrived, and is no rank")
    if "holds" in group:
        group.text("holds")
    if "declared" in group:
        declared = [TensorSpec.read(row) for row in group.listing("declared", limits.MAX_TENSORS)]
        _must(set(specs) <= set(declared), f"group {name!r} has a key that is not among those declared")
        _must(group.flag("whole") == (set(specs) == set(declared)), f"group {name!r} is not as whole as it says")
    _must(min(clocks.values(), default=least) == least, f"group {name!r}: the min clock {least} is nobody's")
    if "switching_at" in group:
        at = group.integer("switching_at")
        _must(all(clock <= at for clock in clocks.values()), f"group {name!r}: somebody is beyond the switch at {at}")
    number = group.integer("round")
    missing = group.listing("missing", limits.MAX_RANKS) if "missing" in group else []
    held = group.mapping("held", limits.MAX_RANKS)
    _must(all(clocks.get(rank) == number for rank in missing), f"group {name!r}: round {number} waits for nobody there")
    _must("missing" in group or not held, f"group {name!r} holds contributions, and no round is open")
    places: list[int] = []
    for rank, saved in held.items():
        _must(is_rank(rank) and rank not in missing, f"group {name!r}: {rank!r} has contributed, and has not")
        contribution = _Exact(saved, f"the contribution of {rank!r}")
        kind = contribution.choice("kind", tuple(UpdateKind))
        samples, own = contribution.integer("samples"), contribution.integers("bodies", limits.MAX_PARTS)
        skipped = kind == UpdateKind.SKIP
        _must(skipped == (not samples) == (not own), f"the contribution of {rank!r} has no weight, or no body")
        places.extend(own)
    return places


def _check_rank(rank: str, saved: _Exact, groups: Mapping[str, _Exact], live: dict[str, dict[str, int]]) -> None:
    """Adds the clocks of its live life to `live`, group by group."""
    _must(is_rank(rank), f"{rank!r} is no rank")
    committed = saved.mapping("committed", limits.MAX_GROUPS) if "committed" in saved else {}
    for name in committed:
        _Exact(committed, f"what was accepted of {rank!r}").integer(name)
    rows = saved.listing("lives", REMEMBERED_LIVES + 1)
    lives = [_Exact(row, f"a life of {rank!r}") for row in rows]
    numbers = [life.integer("number", 1) for life in lives]
    _must(numbers == sorted(set(numbers)), f"the lives of {rank!r} are numbered {numbers}")
    _must(numbers[-1:] <= [saved.integer("incarnations")], f"{rank!r} has had fewer lives than are remembered")
    # A stage has its id over all lives.
    sessions = [life.text("session") for life in lives if "seats" not in life]
    _must(len(set(sessions)) == len(sessions), f"two lives of {rank!r} have one session")
    for place, life in enumerate(lives):
        life.has("session", "ended")
        _must(isinstance(rows[place].get("ended_detail"), str), f"a life of {rank!r} has no words for its end")
        life.flag("one_after_another") if "one_after_another" in life else None
        life.integer("revision") if "revision" in life else None
        _check_seats(f"a life of {rank!r}", life)
        if "ended" in life:
            life.choice("ended", _ENDINGS)
        else:
            _must(place == len(lives) - 1, f"two lives of {rank!r} go on")
        of_groups = life.mapping("groups", limits.MAX_GROUPS)
        for name, progress in of_groups.items():
            _must(name in groups, f"{rank!r} is in a group {name!r} that is not there")
            clock = _check_progress(f"{rank!r} in group {name!r}", _Exact(progress, f"{rank!r}"), groups[name])
            if "ended" not in life:
                live[name][rank] = clock


def _check_seats(who: str, life: _Exact) -> None:
    rows = life.listing("seats", limits.MAX_STAGES) if "seats" in life else []
    seats = [_Exact(row, f"a seat of {who}") for row in rows]
    places = [Place.read(seat.mapping("place", 16)) for seat in seats]
    right = all((place.stage, place.stages) == (stage, len(seats)) for stage, place in enumerate(places))
    _must(right, f"the seats of {who} are not those of its stages")
    for seat in seats:
        seat.text("session"), seat.flag("left")
    if "culprit" in life:
        _must(life.integer("culprit") < len(seats), f"{who} ended by a stage that it has not")
    if seats:
        _must(len(life.mapping("groups", limits.MAX_GROUPS)) == 1, f"{who} is a replica in several groups")


def _check_progress(who: str, progress: _Exact, group: _Exact) -> int:
    progress.has("record")
    version, clock = group.integer("version"), progress.integer("clock")
    _must(progress.integer("owed") <= version, f"{who} is owed a version that is not there")
    for grant in progress.listing("grants", REMEMBERED_GRANTS):
        pair = isinstance(grant, list) and len(grant) == 2
        _must(pair and type(grant[0]) is int and 0 <= grant[0] <= version, f"{who} was granted {grant!r}")
        _must(grant[1] is None or (type(grant[1]) is int and grant[1] == clock), f"{who} was granted {grant!r}")
    if "granted" in progress:
        granted = Granted.read(progress.mapping("granted", 16))
        its = [list(grant) for grant in progress.listing("grants", REMEMBERED_GRANTS)]
        _must([granted.version.number, granted.round] in its, f"{who} was granted {granted}, and was not")
    passed = progress.integer("passed") if "passed" in progress else clock
    _must(passed <= clock, f"{who} was moved back")
    if "kind" in progress:
        progress.choice("kind", tuple(UpdateKind))
    if "record" in progress:
        record = _Exact(progress.mapping("record", 16), f"the last push of {who}")
        record.has("version", "staleness")
        after = record.integer("next_clock") if "next_clock" in record else record.integer("clock") + 1
        _must(record.integer("clock") < after == passed, f"the last push of {who} is not that before its clock {clock}")
        record.integer("parts", 1, limits.MAX_PARTS)
        record.choice("reason", tuple(Reason))
        applied = record.choice("disposition", tuple(Disposition)) == Disposition.APPLIED
        _must(applied == ("version" in record) == ("staleness" in record), f"the last push of {who} has no version")
        if applied:
            record.integer("version", 1, version), record.integer("staleness")
    return clock


def _must(condition: bool, words: str) -> None:
    if not condition:
        raise ValueError(words)
