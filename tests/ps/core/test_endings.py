"""Ends of a run beside its clocks: what is read, what is heard, and when it is over."""

from __future__ import annotations

import math

import pytest

from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.ps.core import describe
from leeway.ps.core.effects import Accepted, Finished, Over
from leeway.ps.core.endings import Endings, Goal, Plateau
from leeway.ps.core.events import Paused, Stop
from leeway.ps.core.settings import GroupSettings, Settings


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("test_accuracy>=0.97", Goal("test_accuracy", ">=", 0.97)),
        (" eval/loss <= 1e-3 ", Goal("eval/loss", "<=", 0.001)),
        ("a b>-2", Goal("a b", ">", -2.0)),
        ("loss<5", Goal("loss", "<", 5.0)),
    ],
)
def test_a_condition_is_read_and_written(text, goal):
    assert Goal.parse(text) == goal
    assert Goal.parse(str(goal)) == goal


@pytest.mark.parametrize(
    "text", ["", "loss", "loss=3", "loss==3", "loss=>3", "<3", "loss<", "loss<x", "loss<nan", "loss<inf", "1<loss<2"]
)
def test_what_is_no_condition(text):
    with pytest.raises(ValueError, match=r"is not a figure, one of >=, <=, >, <, and a finite number, such as "):
        Goal.parse(text)


@pytest.mark.parametrize(
    ("text", "plateau"),
    [
        ("loss:500", Plateau("loss", 500)),
        ("test_accuracy:1:max", Plateau("test_accuracy", 1, highest=True)),
        (" a:b : 7 : max", Plateau("a:b", 7, highest=True)),
    ],
)
def test_a_plateau_is_read_and_written(text, plateau):
    assert Plateau.parse(text) == plateau
    assert Plateau.parse(str(plateau)) == plateau


@pytest.mark.parametrize(
    "text", ["", "loss", "loss:", ":3", "loss:0", "loss:-1", "loss:1.5", "loss:3:min", f"l:{2**53}"]
)
def test_what_is_no_plateau(text):
    with pytest.raises(ValueError, match="is not a figure and how many versions, 1 or more, such as loss:500, or "):
        Plateau.parse(text)


@pytest.mark.parametrize("read", [lambda name: Goal.parse(f"{name}<3"), lambda name: Plateau.parse(f"{name}:3")])
@pytest.mark.parametrize("name", ["é" * 33, "a\0b"])
def test_a_name_that_no_figure_can_have(read, name):
    with pytest.raises(ValueError, match="is no name of a figure: printable text of 1 to 64 bytes"):
        read(name)


@pytest.mark.parametrize(("sign", "met"), [(">=", [2.0, 3.0]), ("<=", [1.0, 2.0]), (">", [3.0]), ("<", [1.0])])
def test_what_meets_a_condition(sign, met):
    values = (1.0, 2.0, 3.0, math.nan, math.inf, -math.inf)
    assert [value for value in values if Goal("loss", sign, 2.0).is_met_by(value)] == met


@pytest.mark.parametrize(
    ("highest", "better"),
    [(False, [(1.0, 2.0), (1.0, math.nan), (2.0, math.nan)]), (True, [(2.0, 1.0), (1.0, math.nan), (2.0, math.nan)])],
)
def test_what_is_better(highest, better):
    values = (1.0, 2.0, math.nan)
    plateau = Plateau("loss", 1, highest)
    assert {pair for pair in ((new, old) for new in values for old in values) if plateau.is_better(*pair)} == set(
        better
    )
    assert not plateau.is_better(math.inf, 1.0)
    assert not plateau.is_better(-math.inf, 1.0)


def test_a_better_figure_begins_the_count_anew():
    endings = Endings(Settings(until_flat=Plateau("loss", 2)), 0.0)
    told = {1: 0.5, 2: 0.5, 3: 0.4, 4: 0.4}
    assert [endings.by_figures({"loss": loss}, "default", version) for version, loss in told.items()] == [None] * 4
    assert endings.by_figures({"loss": 0.4}, "default", 5) is not None


def test_a_figure_that_diverges_at_once_is_flat():
    endings = Endings(Settings(until_flat=Plateau("loss", 2)), 0.0)
    assert [endings.by_figures({"loss": math.nan}, "default", version) for version in (1, 2)] == [None, None]
    assert endings.by_figures({"loss": math.inf}, "default", 3) == (
        "loss is inf, and was no better than nan for 2 versions (--until-flat loss:2)"
    )


def test_figures_that_nobody_has_told():
    endings = Endings(Settings(until_metric=Goal("accuracy", ">", 0.5), until_flat=Plateau("loss", 9)), 0.0)
    assert endings.unheard == {"accuracy", "loss"}
    endings.by_figures({"accuracy": math.nan, "other": 1.0}, "default", 1)
    assert endings.unheard == {"loss"}
    assert Endings(Settings(until_seconds=3.0), 0.0).unheard == set()


def test_pauses_move_the_end_and_not_beyond_all_of_the_time():
    endings = Endings(Settings(until_seconds=10.0), 100.0)
    endings.paused(5.0, 106.0)
    assert endings.deadline == 115.0
    endings.paused(500.0, 108.0)
    assert endings.deadline == 118.0
    assert endings.by_time(117.9) is None
    assert endings.by_time(118.0) == "the run has lasted for the 10 s of --until-seconds"
    without = Endings(Settings(), 0.0)
    without.paused(5.0, 5.0)
    assert (without.deadline, without.by_time(1e9)) == (None, None)


def test_the_machine_wants_to_be_called_at_the_end_and_not_after_it(serve):
    server = serve(until_seconds=5.0, lease_seconds=60.0)
    assert server.machine.next_deadline == 5.0
    assert server.step(Paused(3.0)) == []
    server.now = 3.0
    server.step(Paused(3.0))
    assert server.machine.next_deadline == 8.0
    assert server.tick(4.9) == []
    server.offer("w")
    w0 = server.join("w0")
    server.pull(w0)
    effects = server.tick(0.1)
    assert effects == [Over("the run has lasted for the 5 s of --until-seconds")]
    assert server.machine.next_deadline is None
    status = describe.status(server.machine, server.now)
    assert (status["over"], status["finished"]) == ("the run has lasted for the 5 s of --until-seconds", False)
    server.push(w0)
    assert Finished() in server.effects
    assert server.pull(w0, 1).error.detail == status["over"]


def test_a_run_that_nobody_joins_ends_too(serve):
    server = serve(until_seconds=5.0)
    assert server.tick(5.0) == [Over("the run has lasted for the 5 s of --until-seconds"), Finished()]
    assert server.tick(5.0) == []


def test_a_pull_at_the_very_moment_is_not_granted(serve):
    server = serve(until_seconds=5.0, lease_seconds=60.0)
    server.offer("w")
    w0 = server.join("w0")
    server.now = 5.0
    assert server.pull(w0).error.code is Code.FINISHED


def test_time_decides_nothing_once_the_server_stops_or_the_clocks_have_ended_the_run(serve):
    server = serve(until_seconds=5.0)
    server.now = 6.0
    assert server.step(Stop()) == []
    assert server.tick(1.0) == []
    server = serve(until_seconds=5.0, until=1, lease_seconds=60.0)
    server.offer("w")
    server.walk(server.join("w0"))
    assert Finished() in server.effects
    assert server.tick(6.0) == []
    assert server.machine.over is None


def test_only_what_is_accepted_is_heard(serve):
    server = serve("sync", until_metric=Goal("loss", "<", 1.0))
    server.offer("a", "b")
    w0 = server.join("w0")
    server.pull(w0)
    met = {"loss": 0.5}
    server.push(w0, 1, metrics=met)
    server.push(w0, version=9, metrics=met)
    assert server.machine.over is None
    server.push(w0, metrics=met)
    assert server.machine.over == "loss is 0.5, which --until-metric loss<1.0 asks for"


def test_of_a_push_in_parts_the_figures_of_all_are_heard_with_the_last(serve):
    """Of a replica the loss comes with the last stage's part, which may be the first to come."""
    server = serve("sync", until_metric=Goal("loss", "<", 1.0))
    server.offer("a", "b")
    w0 = server.join("w0")
    server.pull(w0)
    server.push(w0, part=1, parts=2, keys=("b",), metrics={"loss": 0.5, "accuracy": 0.25})
    assert server.machine.over is None
    server.push(w0, part=0, parts=2, keys=("a",), metrics={"pace": 3.0})
    [accepted] = [effect for effect in server.effects if isinstance(effect, Accepted)]
    assert accepted.figures == {"loss": 0.5, "accuracy": 0.25, "pace": 3.0}
    assert server.machine.over == "loss is 0.5, which --until-metric loss<1.0 asks for"


def test_a_pull_that_waits_for_parameters_is_told_the_end_and_a_reader_goes_on_waiting(serve):
    groups = (GroupSettings(PolicyTerms("async")),)
    server = serve(groups=groups, until_seconds=5.0, lease_seconds=60.0)
    w0 = server.join("w0")
    parked, reader = server.send(Pull(life=w0, wait_seconds=99.0)), server.send(Pull(wait_seconds=99.0))
    server.tick(5.0)
    assert server.replies[parked].error.code is Code.FINISHED
    assert reader not in server.replies


@pytest.mark.parametrize("by", [{"until_seconds": 5.0}, {"until": 1}], ids=["by time", "by the clocks"])
def test_nobody_passes_a_named_barrier_when_the_run_is_over(serve, by):
    server = serve(lease_seconds=60.0, **by)
    server.offer("w")
    w0 = server.join("w0")
    server.send(Barrier(w0, "a", 0, 1, 99.0))
    waiting = server.send(Barrier(w0, "b", 0, 2, 99.0))
    assert waiting not in server.replies
    if "until" in by:
        server.walk(w0)
    server.tick(5.0)
    late = server.send(Barrier(w0, "b", 0, 1, 99.0))
    passed = server.send(Barrier(w0, "a", 0, 1, 99.0))
    assert server.replies[passed] == Passed("a", 0), "it was before the end"
    told = [server.replies[request].error for request in (waiting, late)]
    assert [error.code for error in told] == [Code.FINISHED] * 2
    assert {error.detail for error in told} == {server.machine.over or "every group has come to its end"}
