"""The history: JSON lines in which nothing of a decision is lost."""

import json
import os
from pathlib import Path

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Disposition, Push, Pushed, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.times import StepTimes
from leeway.protocol.versions import Version
from leeway.ps.core.effects import Answered, Apply, Contribution, Initialize, Parked
from leeway.ps.core.events import Asked, Gone, Published, Stop, Tick
from leeway.ps.watching.history import History, plain

LIFE = Life("w0", 17, 1)


def strict(line):
    """JSON without Python's extensions."""

    def refuse_constant(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(line, parse_constant=refuse_constant)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "history.jsonl"

    def write(*records):
        history = History(path)
        history.begin({"epoch": 17})
        for seconds, event, effects in records:
            history.record(seconds, event, effects)
        history.flush()
        history.close()
        return [strict(line) for line in path.read_text("utf-8").splitlines()]

    return write


def test_begins_with_the_start(rows):
    assert rows() == [{"is": "Started", "format": 1, "epoch": 17}]


def test_a_start_on_the_same_file_goes_on_below(rows):
    rows((0.1, Stop(), []))
    assert [row.get("is") for row in rows()] == ["Started", None, "Started"]


def test_event_and_effects_with_all_their_fields(rows):
    push = Push(
        LIFE,
        3,
        7,
        UpdateKind.GRADIENT,
        samples=8,
        keys=("w",),
        since=Version(17, 7),
        metrics={"loss": 0.5},
        times=StepTimes(2, 0.5, 0.25, 1.0, 0.125, 0.75),
    )
    apply = Apply("default", 8, UpdateKind.GRADIENT, (Contribution("w0", 8, (5,)),), aggregated=False, live=1)
    (_, row) = rows((1.23456789, Asked(5, push), [apply]))
    assert row["t"] == 1.234568
    assert row["event"]["is"] == "Asked"
    message = row["event"]["message"]
    assert message["life"] == {"is": "Life", "rank": "w0", "epoch": 17, "incarnation": 1, "stage": None}
    assert (message["clock"], message["kind"], message["keys"], message["since"]) == (3, "gradient", ["w"], "17.7")
    assert message["metrics"] == {"loss": 0.5}
    seconds = {"compute_seconds": 0.5, "push_seconds": 0.25, "wait_seconds": 1.0, "pull_seconds": 0.125}
    seconds["bubble_seconds"] = 0.75
    assert message["times"] == {"is": "StepTimes", "clock": 2, **seconds}
    (effect,) = row["effects"]
    assert effect["is"] == "Apply"
    assert effect["contributions"] == [{"is": "Contribution", "rank": "w0", "samples": 8, "bodies": [5]}]


def test_replies_and_refusals(rows):
    pushed = Pushed(3, Disposition.APPLIED, Reason.ON_ARRIVAL, 8, 0)
    refused = refuse(Code.WRONG_CLOCK, "no", clock=4)
    (_, row) = rows(
        (0.0, Gone(1), [Answered(1, pushed), Answered(2, refused), Parked(3, "default", "w0", 1, Reason.LAG, "why")])
    )
    told, error, parked = row["effects"]
    assert told["reply"] == {"is": "Pushed", **pushed.to_fields(), "next_clock": None}
    assert (error["reply"]["error"]["code"], error["reply"]["error"]["clock"]) == ("wrong-clock", 4)
    assert parked["reason"] == "lag"


def test_specs(rows):
    spec = TensorSpec("w", (2, 3), "float32", Kind.TRAINABLE)
    (_, row) = rows((0.0, Published("default", 1), [Initialize("default", 1, 5, (spec,))]))
    (told,) = row["effects"][0]["specs"]
    assert (told["name"], told["shape"], told["kind"]) == ("w", [2, 3], "trainable")


def test_figures_that_json_does_not_have(rows):
    push = Push(LIFE, 0, 1, UpdateKind.SKIP, metrics={"loss": float("nan"), "norm": float("inf"), "ok": 1.0})
    (_, row) = rows((0.0, Asked(1, push), []))
    assert row["event"]["message"]["metrics"] == {"loss": None, "norm": None, "ok": 1.0}


def test_what_changed_nothing_is_left_out(rows):
    skipped = Answered(1, Pushed(0, Disposition.SKIPPED, Reason.SKIPPED))
    told = rows((0.0, Tick(), []), (0.2, Tick(), [skipped]), (0.3, Stop(), []))
    assert [row["event"]["is"] for row in told[1:]] == ["Tick", "Stop"]


def test_any_text_stays_on_its_line(rows):
    (_, row) = rows((0.0, Asked(1, Join("w0", "a\nb\u2028\ud800")), []))
    assert row["event"]["message"]["session"] == "a\nb\u2028\ud800"


def test_plain_of_a_pull():
    assert plain(Pull(wait_seconds=1.5)) == {
        "is": "Pull",
        "group": "default",
        "life": None,
        "clock": 0,
        "min_version": 0,
        "since": None,
        "wait_seconds": 1.5,
    }


def test_a_pipe_is_refused_and_a_device_is_written_to(tmp_path):
    path = tmp_path / "history.jsonl"
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is a pipe, where a regular file should be"):
        History(path)
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="it is a pipe"):
        History(Path(f"/dev/fd/{writing}"))
    for end in (reading, writing):
        os.close(end)
    history = History(Path("/dev/null"))
    history.begin({"epoch": 17})
    history.flush()
    history.close()


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match=r"history\.jsonl"):
        History(tmp_path / "nowhere" / "history.jsonl")


def test_nobody_else_reads_it_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        History(tmp_path / "history.jsonl").close()
    finally:
        os.umask(before)
    assert (tmp_path / "history.jsonl").stat().st_mode & 0o777 == 0o600
