"""What is drawn of a run: slices on tracks, and what one worker, or one stage of a replica, did in one group.

The one rule: slices of a track never overlap, whatever was measured: a slice begins where the one before it ends, or
later.

An iteration is drawn from the server's moments and the worker's durations, in seconds of the server's axis:

    pull granted        push arrived             next pull granted
        | pull ...  compute  push |  wait  wait     | pull
        +--------------------------+-----------------+--------

- `push` ends when the push has arrived, `compute` ends where `push` begins; both last as long as the worker measured.
- `wait` is from there to the next grant: the server knows both moments. It is cut where the reason changed.
- `pull` begins with the grant, and lasts as long as the worker measured.
- `bubble`, of a stage alone, is between `compute` and `push`: all that it waited for its neighbours, in one piece.
  Where in the iteration that was is not told.

What the way through the network takes is in none of these durations. So a pull is drawn early and a push late, by the
one-way time at most; what is left of it is the gap before `compute`.

The worker tells its durations with the next push. Where they are missing (its last iteration, another program) what
lies between grant and arrival is drawn as `compute` with the argument `estimated`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from leeway.protocol.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leeway.ps.watching.recording import Row

TraceEvent: TypeAlias = dict[str, Any]
"""One event of the trace event format, JSON-ready."""

_PARTS = ("compute", "bubble", "push", "wait", "pull")


def microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


class Track:
    """A row of slices: thread `thread` of process `process`, in which `emit` gets each. Moments are in seconds."""

    def __init__(self, process: int, thread: int, emit: Callable[[TraceEvent], None]) -> None:
        self.process = process
        self.thread = thread
        self._emit = emit
        self._free_from = 0.0

    def slice(self, name: str, kind: str, begin: float, end: float, args: Mapping[str, Any]) -> None:
        """Draw from `begin`, or where the track is free, to `end`."""
        begin = max(begin, self._free_from)
        self._free_from = end = max(begin, end)
        since = microseconds(begin)
        self._emit(
            {
                "name": name,
                "cat": kind,
                "ph": "X",
                "ts": since,
                "dur": microseconds(end) - since,
                "pid": self.process,
                "tid": self.thread,
                "args": dict(args),
            }
        )

    def instant(self, name: str, moment: float, args: Mapping[str, Any], scope: str = "p") -> None:
        """Draw a mark. `scope`: over the process ("p") or over all of them ("g")."""
        self._emit(
            {
                "name": name,
                "cat": "decision",
                "ph": "i",
                "s": scope,
                "ts": microseconds(moment),
                "pid": self.process,
                "tid": self.thread,
                "args": dict(args),
            }
        )


class Wait(NamedTuple):
    """From `begin` on it waits. `reason` None: for nothing, the worker has its answer and asks no more."""

    begin: float
    reason: str | None
    detail: str = ""


@dataclass(slots=True)
class _Iteration:
    """`granted` None: the grant is not in the history. `answered` None: nothing has been granted since its push."""

    granted: float | None
    facts: dict[str, Any]
    request: int = 0
    pushed: float = 0.0
    waits: list[Wait] = field(default_factory=list)
    answered: float | None = None


class Steps:
    """The iterations of one worker in one group. Tell it in order; what is known is drawn as soon as it is.

    Holds two iterations at most: the one under way, and the one before it until its durations are told.
    """

    def __init__(self, track: Track) -> None:
        self.track = track
        self._computing: _Iteration | None = None
        self._pushed: _Iteration | None = None
        self._newest: tuple[int, int] | None = None
        # Pulls that wait and follow no push, by request; and those of them that are over.
        self._parked: dict[int, Wait] = {}
        self._first_waits: list[tuple[Wait, float]] = []

    def push(self, moment: float, request: int, message: Row) -> None:
        """A push has arrived. One that is a repeat changes nothing."""
        name = message["life"]["incarnation"], message["clock"]
        iteration, clock = self._computing, message["clock"]
        if iteration is None or iteration.facts["clock"] != clock:
            if name == self._newest:
                return
            # Granted before this history begins.
            iteration = _Iteration(None, {"clock": clock})
        times = message.get("times")
        before = self._pushed.facts["clock"] if self._pushed else None
        self.settle(moment, times if times and times["clock"] == before else None)
        iteration.request, iteration.pushed = request, moment
        # An update that is applied on arrival is answered when it has been; no `Parked` tells of that.
        iteration.waits = [Wait(moment, Reason.OWN_UPDATE, "its update is being applied")]
        self._computing, self._pushed, self._newest = None, iteration, name

    def late(self, moment: float, clock: int) -> None:
        """The update of this iteration has come after its round had closed: it is in no version."""
        if self._pushed and self._pushed.facts["clock"] == clock:
            self._pushed.facts["late"] = True
            self.track.instant("late", moment, {"clock": clock})

    def park(self, moment: float, request: int, reason: str, detail: str) -> None:
        wait = Wait(moment, reason, detail)
        if self._pushed and self._pushed.answered is None:
            self._pushed.waits.append(wait)
        else:
            self._parked[request] = wait

    def answer(self, moment: float, request: int, reply: Row) -> None:
        """A pull or push is answered."""
        pushed = self._pushed
        waits = pushed is not None and pushed.answered is None
        if reply["is"] in ("Pushed", "Staged"):
            # Without a pull: what follows is the worker's own time.
            if pushed and waits:
                pushed.waits.append(Wait(moment, None))
            return
        pulled = reply["pulled"] if reply["is"] == "PushPulled" else reply
        if wait := self._parked.pop(request, None):
            self._first_waits.append((wait, moment))
        if pulled["is"] == "Granted":
            facts = {"clock": pulled["clock"], "version": pulled["version"], "lag": pulled["lag"]}
            self._computing = _Iteration(moment, facts)
        if pulled["is"] == "Refused" and reply is pulled and pushed and pushed.request == request:
            # The push itself was refused: the iteration goes on.
            self._computing, self._pushed, self._newest = pushed, None, None
        elif pulled["is"] != "NotYet" and pushed and waits:
            pushed.answered = moment

    def gone(self, moment: float, request: int) -> None:
        """The asker of a parked pull is no longer there."""
        if wait := self._parked.pop(request, None):
            self._first_waits.append((wait, moment))

    def end(self, moment: float) -> None:
        """The life has ended: what is under way is not known to have been computed."""
        self.cut(moment)
        self._computing = None

    def cut(self, moment: float) -> None:
        """Draw what is open; the server's record ends here, or the life."""
        for request in list(self._parked):
            self.gone(moment, request)
        self.settle(moment, None)

    def settle(self, moment: float, times: Row | None) -> None:
        """Draw the iteration that was pushed last: `times` are its durations, None when they are not known."""
        iteration, self._pushed = self._pushed, None
        if iteration:
            self._draw(iteration, times, moment)
        for wait, end in self._first_waits:
            self._wait(wait, end, {})
        self._first_waits.clear()

    def _draw(self, iteration: _Iteration, times: Row | None, moment: float) -> None:
        clock = {"clock": iteration.facts["clock"]}
        # Histories of before know of no bubble.
        parts = {part: round(times.get(f"{part}_seconds", 0.0), 6) if times else 0.0 for part in _PARTS}
        told = {part: seconds for part, seconds in parts.items() if seconds or part != "bubble"}
        measured = {"measured_seconds": told} if times else {"estimated": True}
        known_since = iteration.pushed - parts["compute"] - parts["bubble"] - parts["push"]
        granted = known_since if iteration.granted is None else iteration.granted
        push_begins = max(granted, iteration.pushed - parts["push"])
        bubble_begins = max(granted, push_begins - parts["bubble"])
        compute_begins = max(granted, bubble_begins - parts["compute"]) if times else granted
        self.track.slice("compute", "compute", compute_begins, bubble_begins, iteration.facts | measured)
        if parts["bubble"]:
            self.track.slice("bubble", "bubble", bubble_begins, push_begins, clock)
        if times:
            late = {"late": True} if "late" in iteration.facts else {}
            self.track.slice("push", "push", push_begins, iteration.pushed, clock | late)
        answered = moment if iteration.answered is None else iteration.answered
        for wait, following in pairwise([*iteration.waits, Wait(answered, None)]):
            self._wait(wait, following.begin, clock)
        if times and iteration.answered is not None:
            # It cannot have lasted beyond the push that tells of it.
            self.track.slice("pull", "pull", answered, min(answered + parts["pull"], moment), clock)

    def _wait(self, wait: Wait, end: float, args: Mapping[str, Any]) -> None:
        if wait.reason is not None and end > wait.begin:
            self.track.slice("wait", "wait", wait.begin, end, {**args, "reason": wait.reason, "detail": wait.detail})
