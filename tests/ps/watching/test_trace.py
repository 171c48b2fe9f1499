"""A run as a trace: hand-made histories with known numbers give known slices."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from leeway.errors import HistoryError
from leeway.ps.watching import trace
from tests.ps.watching.trace_format import Trace

ITERATIONS = "iterations"


def started(time: float = 100.0, epoch: int = 7) -> dict[str, Any]:
    return {"is": "Started", "epoch": epoch, "time": time}


def happens(t: float, event: dict[str, Any], *effects: dict[str, Any]) -> dict[str, Any]:
    return {"t": t, "event": event, "effects": list(effects)}


def life(rank: str, incarnation: int = 1) -> dict[str, Any]:
    return {"is": "Life", "rank": rank, "epoch": 7, "incarnation": incarnation}


def asked(t: float, request: int, message: dict[str, Any], *effects: dict[str, Any]) -> dict[str, Any]:
    return happens(t, {"is": "Asked", "request": request, "message": message}, *effects)


def pull(rank: str, clock: int) -> dict[str, Any]:
    return {"is": "Pull", "group": "default", "life": life(rank), "clock": clock}


def push(rank: str, clock: int, times: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"is": "Push", "group": "default", "life": life(rank), "clock": clock, "times": times, **more}


def times(clock: int, compute: float, push: float, wait: float, pull: float) -> dict[str, Any]:
    parts = {"compute_seconds": compute, "push_seconds": push, "wait_seconds": wait, "pull_seconds": pull}
    return {"is": "StepTimes", "clock": clock, **parts}


def published(t: float, number: int, *effects: dict[str, Any]) -> dict[str, Any]:
    return happens(t, {"is": "Published", "group": "default", "number": number}, *effects)


def answered(request: int, reply: dict[str, Any]) -> dict[str, Any]:
    return {"is": "Answered", "request": request, "reply": reply}


def granted(clock: int, number: int = 1, lag: int = 0) -> dict[str, Any]:
    return {"is": "Granted", "version": f"7.{number}", "clock": clock, "lag": lag}


def pushed(clock: int) -> dict[str, Any]:
    return {"is": "Pushed", "clock": clock, "disposition": "applied", "reason": "on-arrival"}


def pushpulled(clock: int, pulled: dict[str, Any]) -> dict[str, Any]:
    return {"is": "PushPulled", "pushed": pushed(clock), "pulled": pulled}


def apply(number: int, *ranks: str, staleness: int = 0) -> dict[str, Any]:
    contributions = [{"is": "Contribution", "rank": rank} for rank in ranks]
    step = {"number": number, "contributions": contributions, "staleness": staleness, "kind": "gradient"}
    return {"is": "Apply", "group": "default", **step}


def parked(request: int, reason: str, detail: str) -> dict[str, Any]:
    return {"is": "Parked", "request": request, "who": "w", "reason": reason, "detail": detail}


def initialize(number: int) -> dict[str, Any]:
    return {"is": "Initialize", "group": "default", "number": number}


REFUSED = {"is": "Refused", "error": {"code": "finished"}}


def traced(*rows: dict[str, Any]) -> Trace:
    file = io.StringIO()
    trace.write(rows, file)
    return Trace(json.loads(file.getvalue()))


def shown(slices: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Name, begin and end in seconds."""
    return [(one["name"], one["ts"] / 1e6, (one["ts"] + one["dur"]) / 1e6) for one in slices]


OWN = ("own-update", "its update is being applied")
# w0 computes iteration 0 from second 1 on, its update is applied until 3.5, then it waits for w1 until 5. Version 3 is
# w1's, of which nothing else is in this history.
RUN = (
    started(),
    asked(0.5, 1, {"is": "Offer"}, initialize(1)),
    published(0.75, 1),
    asked(1.0, 2, pull("w0", 0), answered(2, granted(0))),
    asked(3.0, 3, push("w0", 0), apply(2, "w0")),
    published(3.5, 2, parked(3, "lag", "w0 leads w1 by 1 > 0")),
    asked(4.0, 9, {"is": "Join", "rank": "w1"}, apply(3, "w1", staleness=1)),
    published(5.0, 3, answered(3, pushpulled(0, granted(1, 3)))),
    asked(7.0, 4, push("w0", 1, times(0, compute=1.5, push=0.25, wait=2.0, pull=0.125)), apply(4, "w0")),
    published(7.25, 4, answered(4, pushpulled(1, REFUSED))),
)


class TestWorkers:
    def test_an_iteration_is_the_server_s_moments_and_the_worker_s_durations(self) -> None:
        assert shown(traced(*RUN).slices("worker w0", ITERATIONS)) == [
            ("compute", 1.25, 2.75),
            ("push", 2.75, 3.0),
            ("wait", 3.0, 3.5),
            ("wait", 3.5, 5.0),
            ("pull", 5.0, 5.125),
            # The last one: nobody tells its durations.
            ("compute", 5.125, 7.0),
            ("wait", 7.0, 7.25),
        ]

    def test_what_a_slice_tells(self) -> None:
        slices = traced(*RUN).slices("worker w0", ITERATIONS)
        first, _, applied, waited, *_, last, _ = (one["args"] for one in slices)
        measured = {"compute": 1.5, "push": 0.25, "wait": 2.0, "pull": 0.125}
        assert first == {"clock": 0, "version": "7.1", "lag": 0, "measured_seconds": measured}
        assert (applied["reason"], applied["detail"]) == OWN
        assert waited == {"clock": 0, "reason": "lag", "detail": "w0 leads w1 by 1 > 0"}
        assert last == {"clock": 1, "version": "7.3", "lag": 0, "estimated": True}

    def test_the_stages_of_a_replica_have_tracks_in_their_order(self) -> None:
        def of(stage: int, message: dict[str, Any]) -> dict[str, Any]:
            return message | {"life": life("r0") | {"stage": stage}}

        measured = times(0, compute=0.5, push=0.25, wait=1.0, pull=0.125) | {"bubble_seconds": 0.75}
        replica = {"is": "Began", "rank": "r0", "incarnation": 1, "stages": 2}
        run = traced(
            started(),
            asked(0.5, 1, {"is": "Join", "rank": "r0"}, replica),
            asked(1.0, 2, of(1, pull("r0", 0)), answered(2, granted(0))),
            asked(1.0, 3, of(0, pull("r0", 0)), answered(3, granted(0))),
            asked(3.0, 4, of(1, push("r0", 0)), parked(4, "waiting-for-stages", "waits for the part of stage 0")),
            asked(3.5, 5, of(0, push("r0", 0)), apply(1, "r0")),
            published(4.0, 1, answered(4, pushpulled(0, granted(1))), answered(5, pushpulled(0, granted(1)))),
            asked(6.0, 6, of(1, push("r0", 1, measured))),
        )
        assert run.tracks("worker r0") == ["stage 0", "stage 1"]
        assert shown(run.slices("worker r0", "stage 1"))[:6] == [
            ("compute", 1.5, 2.0),
            ("bubble", 2.0, 2.75),
            ("push", 2.75, 3.0),
            ("wait", 3.0, 4.0),
            ("pull", 4.0, 4.125),
            ("compute", 4.125, 6.0),
        ]
        [first] = [one["args"] for one in run.slices("worker r0", "stage 1", "compute")][:1]
        assert first["measured_seconds"]["bubble"] == 0.75
        assert shown(run.slices("worker r0", "stage 0"))[0] == ("compute", 1.0, 3.5)
        # The lag is the replica's: once for each grant.
        assert [value for _, value in run.counter("worker r0", "lag")] == [0, 0]

    def test_what_was_measured_too_long_is_clipped(self) -> None:
        """A push that was sent three times measures all of them; the first had arrived."""
        rows = list(RUN)
        rows[8] = asked(7.0, 4, push("w0", 1, times(0, compute=99.0, push=0.5, wait=0.0, pull=99.0)), apply(4, "w0"))
        assert shown(traced(*rows).slices("worker w0", ITERATIONS)) == [
            ("compute", 1.0, 2.5),
            ("push", 2.5, 3.0),
            ("wait", 3.0, 3.5),
            ("wait", 3.5, 5.0),
            ("pull", 5.0, 7.0),
            ("compute", 7.0, 7.0),
            ("wait", 7.0, 7.25),
        ]

    def test_times_of_another_iteration_are_not_taken(self) -> None:
        rows = list(RUN)
        rows[8] = asked(7.0, 4, push("w0", 1, times(5, 0.5, 0.5, 0.5, 0.5)), apply(4, "w0"))
        assert [one["args"].get("estimated") for one in traced(*rows).slices("worker w0", ITERATIONS, "compute")] == [
            True,
            True,
        ]

    def test_a_push_that_is_repeated_is_one_iteration(self) -> None:
        rows = (*RUN[:5], asked(3.25, 33, push("w0", 0)), *RUN[5:])
        assert shown(traced(*rows).slices("worker w0", ITERATIONS)) == shown(
            traced(*RUN).slices("worker w0", ITERATIONS)
        )

    def test_a_push_that_was_refused_has_not_arrived(self) -> None:
        rows = (*RUN[:4], asked(2.0, 8, push("w0", 0), answered(8, REFUSED)), *RUN[4:])
        assert shown(traced(*rows).slices("worker w0", ITERATIONS))[:2] == [
            ("compute", 1.25, 2.75),
            ("push", 2.75, 3.0),
        ]

    def test_a_push_without_a_pull_is_no_wait_after_its_answer(self) -> None:
        run = traced(
            started(),
            asked(1.0, 1, pull("w0", 0), answered(1, granted(0))),
            asked(2.0, 2, push("w0", 0), apply(2, "w0")),
            published(2.5, 2, answered(2, pushed(0))),
            asked(4.0, 3, pull("w0", 1), parked(3, "lag", "w0 leads w1 by 1 > 0")),
            happens(5.0, {"is": "Tick"}, answered(3, {"is": "NotYet", "reason": "lag"})),
            asked(5.25, 4, pull("w0", 1), parked(4, "lag", "w0 leads w1 by 1 > 0")),
            happens(6.0, {"is": "Tick"}, answered(4, granted(1, 2))),
        )
        assert shown(run.slices("worker w0", ITERATIONS)) == [
            ("compute", 1.0, 2.0),
            ("wait", 2.0, 2.5),
            ("wait", 4.0, 5.25),
            ("wait", 5.25, 6.0),
        ]

    def test_a_first_pull_that_waits(self) -> None:
        run = traced(
            started(),
            asked(1.0, 1, pull("w0", 0), parked(1, "no-parameters", "no parameters yet")),
            asked(2.0, 2, {"is": "Offer"}, initialize(1)),
            published(2.5, 1, answered(1, granted(0))),
            asked(3.0, 3, push("w0", 0)),
        )
        assert shown(run.slices("worker w0", ITERATIONS)) == [("wait", 1.0, 2.5), ("compute", 2.5, 3.0)]

    def test_a_pull_whose_asker_goes_away(self) -> None:
        run = traced(
            started(),
            asked(1.0, 1, pull("w0", 0), parked(1, "no-parameters", "no parameters yet")),
            happens(2.0, {"is": "Gone", "request": 1}),
        )
        assert shown(run.slices("worker w0", ITERATIONS)) == [("wait", 1.0, 2.0)]

    def test_a_life_that_ends_ends_its_wait_and_what_it_computed_is_not_known(self) -> None:
        ended = {"is": "Ended", "rank": "w0", "incarnation": 1, "reason": "lease-expired", "detail": "silent"}
        cut = traced(*RUN[:6], happens(4.5, {"is": "Tick"}, ended, answered(3, REFUSED)))
        assert shown(cut.slices("worker w0", ITERATIONS)) == [
            ("compute", 1.0, 3.0),
            ("wait", 3.0, 3.5),
            ("wait", 3.5, 4.5),
        ]
        assert (4_500_000, "w0 ends") in cut.marks()
        computing = traced(*RUN[:4], happens(4.5, {"is": "Tick"}, ended))
        assert computing.slices("worker w0", ITERATIONS) == []
        assert computing.counter("worker w0", "lag") == [(1_000_000, 0), (4_500_000, 0)]

    def test_an_arrival_at_a_barrier_waits_on_a_track_of_its_own(self) -> None:
        arrival = {"is": "Barrier", "life": life("w0"), "name": "start"}
        run = traced(
            started(),
            asked(1.0, 1, arrival, parked(1, "barrier", "barrier start/0 waits for w1")),
            asked(3.0, 2, arrival | {"life": life("w1")}, *(answered(one, {"is": "Passed"}) for one in (1, 2))),
        )
        assert shown(run.slices("worker w0", "barriers")) == [("wait", 1.0, 3.0)]
        assert run.slices("worker w0", "barriers")[0]["args"]["detail"] == "barrier start/0 waits for w1"

    def test_readers_are_not_drawn(self) -> None:
        reader = {"is": "Pull", "group": "default", "life": None, "clock": 0}
        run = traced(started(), asked(1.0, 1, reader, parked(1, "min-version", "not out")))
        assert set(run.processes.values()) == {"server"}


class TestServer:
    def test_an_applied_version_is_drawn_from_when_it_could_begin(self) -> None:
        assert shown(traced(*RUN).slices("server", "apply")) == [
            ("initialize", 0.5, 0.75),
            ("apply", 3.0, 3.5),
            ("apply", 4.0, 5.0),
            ("apply", 7.0, 7.25),
        ]
        queued = traced(
            started(),
            asked(1.0, 1, push("w0", 0), apply(2, "w0")),
            asked(1.5, 2, push("w1", 0), apply(3, "w1", staleness=1)),
            published(2.0, 2),
            published(2.25, 3),
        )
        assert shown(queued.slices("server", "apply")) == [("apply", 1.0, 2.0), ("apply", 2.0, 2.25)]
        facts = queued.slices("server", "apply")[1]["args"]
        assert facts == {"version": 3, "updates": 1, "of": ["w1"], "staleness": 1, "kind": "gradient"}

    def test_counters(self) -> None:
        run = traced(*RUN)
        assert run.counter("server", "version") == [(750_000, 1), (3_500_000, 2), (5_000_000, 3), (7_250_000, 4)]
        assert run.counter("server", "min clock") == [(1_000_000, 0), (5_000_000, 1)]
        assert run.counter("worker w0", "lag") == [(1_000_000, 0), (5_000_000, 0)]
        # Seconds 3, 5 and 7 have one each; what is between them has none.
        assert run.counter("server", "updates/s") == [
            (0, 0),
            (1_000_000, 0),
            (3_000_000, 1),
            (4_000_000, 0),
            (5_000_000, 1),
            (6_000_000, 0),
            (7_000_000, 1),
            (8_000_000, 0),
        ]

    def test_rounds(self) -> None:
        opened = {"is": "RoundOpened", "group": "default", "number": 0, "members": ["w0", "w1"]}
        closed = {"is": "RoundClosed", "group": "default", "number": 0, "contributors": ["w0"], "samples": 8}
        tick = {"is": "Tick"}
        run = traced(
            started(),
            happens(1.0, tick, opened),
            happens(2.0, tick, closed),
            happens(3.0, tick, opened | {"number": 1}),
            happens(4.0, tick),
        )
        first, second = run.slices("server", "rounds")
        assert shown([first, second]) == [("round", 1.0, 2.0), ("round", 3.0, 4.0)]
        assert first["args"] == {"round": 0, "members": 2, "closed": True, "samples": 8}
        assert second["args"] == {"round": 1, "members": 2, "closed": False}

    def test_decisions_are_marks(self) -> None:
        began = {"is": "Began", "rank": "w0", "incarnation": 2}
        switched = {"is": "Switched", "group": "default", "mode": "ssp", "staleness": 3, "switch_point": 9}
        run = traced(
            started(),
            happens(1.0, {"is": "Tick"}, began),
            happens(2.0, {"is": "Tick"}, switched),
            happens(3.0, {"is": "Tick"}, switched | {"mode": "sync", "staleness": None}, {"is": "Finished"}),
            happens(4.0, {"is": "Stop"}),
        )
        assert run.marks() == [
            (0, "started"),
            (1_000_000, "w0 joins"),
            (2_000_000, "switch to ssp(3)"),
            (3_000_000, "switch to sync"),
            (3_000_000, "finished"),
            (4_000_000, "stopping"),
        ]

    def test_groups_are_told_apart(self) -> None:
        run = traced(started(), asked(1.0, 1, push("w0", 0) | {"group": "embedding"}))
        assert set(run.threads.values()) == {
            "decisions",
            "apply (embedding)",
            "rounds (embedding)",
            "iterations (embedding)",
        }


class TestStarts:
    def test_they_follow_one_another_at_the_wall_clock_s_distance(self) -> None:
        run = traced(
            started(100.0),
            asked(2.0, 1, {"is": "Offer"}, initialize(1)),
            published(2.5, 1),
            started(160.0, epoch=8),
            asked(1.0, 1, pull("w0", 0), answered(1, granted(0))),
            asked(2.0, 2, push("w0", 0), apply(2, "w0")),
            published(2.5, 2),
        )
        assert run.marks() == [(0, "started"), (60_000_000, "started")]
        assert shown(run.slices("worker w0", ITERATIONS)) == [("compute", 61.0, 62.0), ("wait", 62.0, 62.5)]
        assert shown(run.slices("server", "apply"))[-1] == ("apply", 62.0, 62.5)

    def test_a_clock_that_was_set_back_lets_none_overlap(self) -> None:
        run = traced(started(100.0), happens(5.0, {"is": "Stop"}), started(90.0), happens(1.0, {"is": "Stop"}))
        assert run.marks() == [(0, "started"), (5_000_000, "stopping"), (5_000_000, "started"), (6_000_000, "stopping")]

    def test_what_a_killed_server_had_under_way_is_cut(self) -> None:
        opened = {"is": "RoundOpened", "group": "default", "number": 0, "members": ["w0"]}
        closed = {"is": "RoundClosed", "group": "default", "number": 0, "contributors": ["w0"], "samples": 8}
        run = traced(
            started(100.0),
            asked(1.0, 1, pull("w0", 0), answered(1, granted(0)), opened),
            asked(2.0, 2, push("w0", 0), apply(2, "w0"), parked(2, "waiting-for-round", "round 0 waits for w1")),
            happens(3.0, {"is": "Tick"}),
            started(110.0),
            happens(1.0, {"is": "Tick"}, closed),
        )
        assert shown(run.slices("worker w0", ITERATIONS)) == [("compute", 1.0, 2.0), ("wait", 2.0, 3.0)]
        assert run.slices("server", "apply") == []
        assert shown(run.slices("server", "rounds")) == [("round", 1.0, 3.0), ("round", 10.0, 11.0)]

    def test_a_late_update_is_marked(self) -> None:
        def taken(clock: int, disposition: str | None) -> dict[str, Any]:
            return {"is": "Accepted", "group": "default", "rank": "w0", "clock": clock, "disposition": disposition}

        run = traced(
            started(),
            asked(1.0, 1, pull("w0", 0), answered(1, granted(0))),
            asked(3.0, 2, push("w0", 0), taken(0, "late"), answered(2, pushed(0))),
            asked(4.0, 3, pull("w0", 5), answered(3, granted(5))),
            asked(6.0, 4, push("w0", 5, times(0, 1.5, 0.25, 0.0, 0.0)), taken(5, "held"), answered(4, pushed(5))),
            asked(7.0, 5, pull("w0", 6), answered(5, granted(6))),
            asked(9.0, 6, push("w0", 6, times(5, 1.5, 0.25, 0.0, 0.0)), taken(6, None), answered(6, pushed(6))),
        )
        assert [mark for mark in run.marks() if mark[1] != "started"] == [(3_000_000, "late")]
        found = [
            (one["name"], one["args"]["clock"], one["args"].get("late"))
            for one in run.slices("worker w0", ITERATIONS)
            if one["name"] in ("compute", "push")
        ]
        assert found == [
            *(("compute", 0, True), ("push", 0, True), ("compute", 5, None), ("push", 5, None), ("compute", 6, None))
        ]

    def test_a_grant_outlasts_a_clean_stop(self) -> None:
        run = traced(
            started(100.0),
            asked(1.0, 1, pull("w0", 3), answered(1, granted(3))),
            happens(2.0, {"is": "Stop"}),
            started(110.0),
            asked(1.0, 1, push("w0", 3, times(2, 0.5, 0.25, 0.0, 0.0))),
            asked(2.0, 2, push("w0", 4, times(3, 0.5, 0.25, 0.0, 0.0))),
        )
        assert shown(run.slices("worker w0", ITERATIONS, "compute"))[0] == ("compute", 10.25, 10.75)
        # Of the second no grant is known, and no durations: that it was is known all the same.
        assert shown(run.slices("worker w0", ITERATIONS, "compute"))[1] == ("compute", 12.0, 12.0)


def test_the_end_of_a_run_alone(ssp_rows, sync_rows) -> None:
    """As `head -n 1` and `tail` leave it: what began before is left out, nothing else is."""
    for rows in (ssp_rows, sync_rows):
        whole = traced(started(), *rows[1:])
        for kept in range(1, len(rows)):
            part = traced(started(), *rows[-kept:])
            for process, thread in (("server", "apply"), ("server", "rounds")):
                slices = part.slices(process, thread) if process in part.processes.values() else []
                assert shown(slices) == shown(whole.slices(process, thread))[-len(slices) :] * bool(slices)


def test_names_come_in_natural_order() -> None:
    ranks = ("w10", "w2", "w1")
    run = traced(started(), *(asked(1.0, number, pull(rank, 0)) for number, rank in enumerate(ranks)))
    assert list(run.processes.values()) == ["server", "worker w1", "worker w2", "worker w10"]
    places = [one["args"]["sort_index"] for one in run.events if one["name"] == "process_sort_index"]
    assert places == [0, 1, 2, 3]


def test_events_come_while_the_history_is_read() -> None:
    """Nothing waits for the end but the names."""
    read = []

    def rows() -> Any:
        for row in RUN:
            read.append(row)
            yield row

    events = trace.events(rows())
    assert next(events)["name"] == "started"
    assert len(read) == 1


def test_what_is_held_does_not_grow_with_the_run() -> None:
    drawing = trace._Drawing()
    drawing.take(started())
    drawing.take(asked(0.0, 0, pull("w0", 0), answered(0, granted(0))))

    def held() -> list[int]:
        drawing.drawn.clear()
        steps = drawing._steps["w0", "default", None]
        kept = (drawing._asked_by, drawing._arrived, drawing._meeting, steps._parked, steps._first_waits)
        return [len(one) for one in (*kept, drawing._group("default").making)]

    def step(clock: int) -> None:
        told = times(clock - 1, 0.5, 0.25, 0.0, 0.0)
        drawing.take(asked(clock + 0.5, clock + 1, push("w0", clock, told), apply(clock + 2, "w0")))
        reply = answered(clock + 1, pushpulled(clock, granted(clock + 1)))
        drawing.take(published(clock + 0.75, clock + 2, reply))

    step(0)
    before = held()
    for clock in range(1, 50):
        step(clock)
    assert held() == before


@pytest.mark.parametrize(
    "row",
    [
        {"t": 1.0, "event": {"is": "Asked"}, "effects": []},
        {"t": 1.0, "event": {"is": "Tick"}, "effects": [{"is": "Apply"}]},
        {"t": 1.0, "event": {"is": "Published", "group": "default"}, "effects": []},
        {"is": "Started"},
        {"t": 1.0, "event": {"is": "Asked", "request": 1, "message": "text"}, "effects": []},
    ],
)
def test_a_row_that_no_server_writes_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(HistoryError, match="row 2 of the history is not as a server writes it"):
        list(trace.events([started(), row]))
