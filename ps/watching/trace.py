"""A run as a trace that Perfetto and chrome://tracing open: the rows of a history become trace events.

The one rule: there is one time axis, the server's. Anchors are moments of the server; durations of a worker are the
worker's own measurement, and nobody's clock is compared with anybody else's (`tracks` says how exact that is).

One process for the server: decisions as marks, a track of applied versions and one of rounds for each group, counters.
One for each rank, all its lives: a track of iterations for each group, or for each stage where it is a replica, its
arrivals at named barriers, its lag. Starts of the server follow one another, at the distance that the wall clock says
and never overlapping.

Memory grows with the workers (two iterations each, and what they have asked) and with the versions being made, not with
the length of the run. What the rows do not tell the beginning of, since they are a part of a run, is left out.

Format: "Trace Event Format" (the Chromium project), the JSON object form; times in microseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from leeway.errors import HistoryError
from leeway.protocol.pushes import Disposition
from leeway.protocol.ranks import DEFAULT_GROUP, natural
from leeway.ps.watching.tracks import Steps, TraceEvent, Track, Wait, microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from leeway.ps.watching.recording import Row

_SERVER_PROCESS = 1

# Names in an argument; beyond them the count says more.
_MAX_NAMES = 16


def write(rows: Iterable[Row], file: IO[str]) -> None:
    """Write the trace of a history's rows as one JSON document. Raises what `events` and the rows raise."""
    # Before the first event nothing: a file that is no history leaves nothing written.
    lead = '{"displayTimeUnit":"ms","traceEvents":[\n'
    for event in events(rows):
        file.write(lead + json.dumps(event, separators=(",", ":")))
        lead = ",\n"
    file.write("\n]}\n")


def events(rows: Iterable[Row]) -> Iterator[TraceEvent]:
    """The trace events of a history's rows. An iteration's come when its durations are known; names come last.

    Raises `HistoryError` for a row that lacks what rows of its kind have.
    """
    drawing = _Drawing()
    for number, row in enumerate(rows, 1):
        try:
            drawing.take(row)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise HistoryError(f"row {number} of the history is not as a server writes it: {error!r}") from error
        yield from drawing.drawn
        drawing.drawn.clear()
    drawing.close()
    yield from drawing.drawn


@dataclass(slots=True)
class _Process:
    """A process of the trace, and the names of its tracks (its threads, numbered from 1)."""

    number: int
    tracks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Group:
    """A group on the server's side. `making`: when each version was decided, the word for it, and what is in it.
    `open_round`: its number, since when, and with how many members. `updates`: published in the present `second` of
    the axis.
    """

    name: str
    applied: Track
    rounds: Track
    published_at: float
    second: int
    updates: int = 0
    min_clock: int | None = None
    making: dict[int, tuple[float, str, dict[str, Any]]] = field(default_factory=dict)
    open_round: tuple[int, float, int] | None = None


class _Asker(NamedTuple):
    """Who pulls and pushes in a group. `stage` None: a worker that is no replica."""

    rank: str
    group: str
    stage: int | None

    @classmethod
    def of(cls, message: Row) -> _Asker:
        return cls(message["life"]["rank"], message["group"], message["life"].get("stage"))


class _Drawing:
    def __init__(self) -> None:
        self.drawn: list[TraceEvent] = []
        self._offset = 0.0
        self._now = 0.0
        self._first_start: float | None = None
        self._server = _Process(_SERVER_PROCESS)
        self._workers: dict[str, _Process] = {}
        self._groups: dict[str, _Group] = {}
        self._steps: dict[_Asker, Steps] = {}
        # How many stages each replica has.
        self._stages: dict[str, int] = {}
        self._barriers: dict[str, Track] = {}
        # Requests without an answer: who asks of pulls and pushes, (rank, barrier) and the wait of arrivals.
        self._asked_by: dict[int, _Asker] = {}
        self._arrived: dict[int, tuple[str, str]] = {}
        self._meeting: dict[int, Wait] = {}
        self._decisions = self._track(self._server, "decisions")

    def take(self, row: Row) -> None:
        if row.get("is") == "Started":
            self._started(row)
            return
        moment = self._now = max(self._now, self._offset + row["t"])
        event = row["event"]
        match event["is"]:
            case "Asked":
                self._asked(moment, event["request"], event["message"])
            case "Published" | "Failed":
                self._published(moment, self._group(event["group"]), event["number"])
            case "Gone":
                self._met(moment, event["request"])
                if asker := self._asked_by.pop(event["request"], None):
                    self._steps[asker].gone(moment, event["request"])
            case "Stop":
                self._decisions.instant("stopping", moment, {})
        for effect in row["effects"]:
            self._effect(moment, effect)

    def close(self) -> None:
        """The record ends. Draw what is open, and say what everything is called."""
        self._cut()
        for group in self._groups.values():
            self._rate(group, group.second + 2)
        self._name(self._server, "server", 0)
        for place, rank in enumerate(sorted(self._workers, key=natural), 1):
            self._name(self._workers[rank], f"worker {rank}", place)

    # Starts.

    def _started(self, row: Row) -> None:
        self._cut()
        at = float(row["time"])
        if self._first_start is None:
            self._first_start = at
        self._offset = self._now = max(self._now, at - self._first_start)
        for group in self._groups.values():
            group.making.clear()
            group.published_at = self._now
            if group.open_round:
                # It goes on where the server does, unless that has lost it.
                number, _, members = group.open_round
                group.open_round = number, self._now, members
        self._decisions.instant("started", self._now, {"epoch": row["epoch"]})

    def _cut(self) -> None:
        """No answer comes any more, and what was being made never is."""
        for steps in self._steps.values():
            steps.cut(self._now)
        for request in list(self._meeting):
            self._met(self._now, request)
        for group in self._groups.values():
            if group.open_round:
                number, since, members = group.open_round
                facts = {"round": number, "members": members, "closed": False}
                group.rounds.slice("round", "round", since, self._now, facts)
        self._asked_by.clear()
        self._arrived.clear()

    # Events.

    def _asked(self, moment: float, request: int, message: Row) -> None:
        match message["is"]:
            case "Push":
                asker = self._asked_by[request] = _Asker.of(message)
                self._steps_of(asker).push(moment, request, message)
            case "Pull" if message["life"] is not None:
                asker = self._asked_by[request] = _Asker.of(message)
                self._steps_of(asker)
            case "Barrier":
                self._arrived[request] = message["life"]["rank"], message["name"]

    def _published(self, moment: float, group: _Group, number: int) -> None:
        if making := group.making.pop(number, None):
            decided, word, facts = making
            # It could not begin before the version that it steps from was there.
            group.applied.slice(word, "apply", max(decided, group.published_at), moment, facts)
        group.published_at = moment
        self._count(self._server, f"version{_of(group.name)}", moment, "version", number)
        if int(moment) > group.second:
            self._rate(group, int(moment))
        group.updates += making[2]["updates"] if making else 0

    def _rate(self, group: _Group, second: int) -> None:
        """The present second of the group is over, and `second` begins; those between them had no updates."""
        name = f"updates/s{_of(group.name)}"
        self._count(self._server, name, group.second, "updates", group.updates)
        if second > group.second + 1:
            self._count(self._server, name, group.second + 1, "updates", 0)
        group.second, group.updates = second, 0

    # Effects.

    def _effect(self, moment: float, effect: Row) -> None:
        match effect["is"]:
            case "Parked":
                self._parked(moment, effect)
            case "Accepted" if effect["disposition"] == Disposition.LATE:
                for asker, steps in self._steps.items():
                    if (asker.rank, asker.group) == (effect["rank"], effect["group"]):
                        steps.late(moment, effect["clock"])
            case "Answered":
                self._answered(moment, effect["request"], effect["reply"])
            case "Apply":
                ranks = [contribution["rank"] for contribution in effect["contributions"]]
                facts = {"version": effect["number"], "updates": len(ranks), "of": ranks[:_MAX_NAMES]}
                facts |= {"staleness": effect["staleness"], "kind": effect["kind"]}
                self._group(effect["group"]).making[effect["number"]] = moment, "apply", facts
            case "Initialize" | "Adopt":
                facts = {"version": effect["number"], "updates": 0}
                self._group(effect["group"]).making[effect["number"]] = moment, "initialize", facts
            case "RoundOpened":
                self._group(effect["group"]).open_round = effect["number"], moment, len(effect["members"])
            case "RoundClosed":
                group = self._group(effect["group"])
                opened, group.open_round = group.open_round, None
                if opened and opened[0] == effect["number"]:
                    number, since, members = opened
                    facts = {"round": number, "members": members, "closed": True, "samples": effect["samples"]}
                    group.rounds.slice("round", "round", since, moment, facts)
            case "Began":
                if stages := effect.get("stages"):
                    self._stages[effect["rank"]] = stages
                self._decisions.instant(f"{effect['rank']} joins", moment, {"incarnation": effect["incarnation"]})
            case "Ended":
                self._ended(moment, effect)
            case "Switched":
                bound = "" if effect["staleness"] is None else f"({effect['staleness']})"
                facts = {"group": effect["group"], "after version": effect["switch_point"]}
                self._decisions.instant(f"switch to {effect['mode']}{bound}", moment, facts, scope="g")
            case "Over":
                self._decisions.instant("over", moment, {"why": effect["why"]}, scope="g")
            case "Finished":
                self._decisions.instant("finished", moment, {})

    def _parked(self, moment: float, effect: Row) -> None:
        request = effect["request"]
        if asker := self._asked_by.get(request):
            self._steps[asker].park(moment, request, effect["reason"], effect["detail"])
        elif request in self._arrived:
            self._meeting[request] = Wait(moment, effect["reason"], effect["detail"])

    def _answered(self, moment: float, request: int, reply: Row) -> None:
        self._met(moment, request)
        asker = self._asked_by.pop(request, None)
        if asker is None:
            return
        self._steps[asker].answer(moment, request, reply)
        pulled = reply["pulled"] if reply["is"] == "PushPulled" else reply
        if pulled["is"] == "Granted":
            if asker.stage:
                return  # it is the replica's, and its first stage's reply tells it
            rank, group = asker.rank, self._group(asker.group)
            self._count(self._workers[rank], f"lag{_of(group.name)}", moment, "iterations", pulled["lag"])
            slowest = pulled["clock"] - pulled["lag"]
            if slowest != group.min_clock:
                group.min_clock = slowest
                self._count(self._server, f"min clock{_of(group.name)}", moment, "clock", slowest)

    def _met(self, moment: float, request: int) -> None:
        """An arrival at a barrier waits no more."""
        arrived, wait = self._arrived.pop(request, None), self._meeting.pop(request, None)
        if arrived and wait:
            rank, name = arrived
            if rank not in self._barriers:
                self._barriers[rank] = self._track(self._worker(rank), "barriers")
            facts = {"barrier": name, "reason": wait.reason, "detail": wait.detail}
            self._barriers[rank].slice("wait", "wait", wait.begin, moment, facts)

    def _ended(self, moment: float, effect: Row) -> None:
        rank = effect["rank"]
        facts = {name: effect[name] for name in ("incarnation", "reason", "detail")}
        self._decisions.instant(f"{rank} ends", moment, facts)
        known = [asker for asker in self._steps if asker.rank == rank]
        for asker in known:
            self._steps[asker].end(moment)
        for group in dict.fromkeys(asker.group for asker in known):
            # A counter holds its last value to the end of the trace.
            self._count(self._workers[rank], f"lag{_of(group)}", moment, "iterations", 0)

    # Processes, tracks, counters and their names.

    def _group(self, name: str) -> _Group:
        if name not in self._groups:
            applied, rounds = (self._track(self._server, f"{what}{_of(name)}") for what in ("apply", "rounds"))
            self._groups[name] = _Group(name, applied, rounds, published_at=self._now, second=int(self._now))
        return self._groups[name]

    def _worker(self, rank: str) -> _Process:
        if rank not in self._workers:
            self._workers[rank] = _Process(_SERVER_PROCESS + 1 + len(self._workers))
        return self._workers[rank]

    def _steps_of(self, asker: _Asker) -> Steps:
        if asker not in self._steps:
            self._group(asker.group)
            if asker.stage is None:
                self._begin_steps(asker, "iterations")
            else:
                # All of them, in their order, whoever asks first.
                for stage in range(max(self._stages.get(asker.rank, 0), asker.stage + 1)):
                    self._begin_steps(asker._replace(stage=stage), f"stage {stage}")
        return self._steps[asker]

    def _begin_steps(self, asker: _Asker, name: str) -> None:
        if asker not in self._steps:
            self._steps[asker] = Steps(self._track(self._worker(asker.rank), f"{name}{_of(asker.group)}"))

    def _track(self, process: _Process, name: str) -> Track:
        process.tracks.append(name)
        return Track(process.number, len(process.tracks), self.drawn.append)

    def _count(self, process: _Process, name: str, moment: float, unit: str, value: float) -> None:
        since = microseconds(moment)
        self.drawn.append({"name": name, "ph": "C", "ts": since, "pid": process.number, "args": {unit: value}})

    def _name(self, process: _Process, name: str, place: int) -> None:
        of = {"ph": "M", "pid": process.number}
        self.drawn.append({"name": "process_name", **of, "args": {"name": name}})
        self.drawn.append({"name": "process_sort_index", **of, "args": {"sort_index": place}})
        for thread, track in enumerate(process.tracks, 1):
            self.drawn.append({"name": "thread_name", **of, "tid": thread, "args": {"name": track}})
            self.drawn.append({"name": "thread_sort_index", **of, "tid": thread, "args": {"sort_index": thread}})


def _of(group: str) -> str:
    """What sets a group apart in a name; where there is one group alone, nothing has to."""
    return "" if group == DEFAULT_GROUP else f" ({group})"
