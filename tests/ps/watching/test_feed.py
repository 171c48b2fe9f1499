"""The feed: what is made when, once for all viewers, and bounded."""

import json

import pytest

from leeway.errors import WireError
from leeway.protocol import limits
from leeway.protocol.membership import Join
from leeway.ps.core.events import Asked, Gone, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import Settings
from leeway.ps.watching.curve import MAX_POINTS, Progress
from leeway.ps.watching.decision_log import DecisionLog, Kind
from leeway.ps.watching.feed import Feed, _message


class Run:
    """A feed of a machine, with a clock, and a document that counts how often it was made."""

    def __init__(self, workers=0):
        self.now, self.made, self.version = 0.0, 0, 0
        self.machine = Machine(Settings(), epoch=1)
        for number in range(workers):
            self.machine.step(Asked(number, Join(f"w{number}", "s")), 0.0)
        self.decisions = DecisionLog(lambda: self.now)
        self.feed = Feed(self.machine, self.document, self.progress, self.decisions, lambda: self.now)

    def document(self):
        self.made += 1
        return {"made": self.made}

    def progress(self):
        return {"default": Progress(self.version, 0, 0, {})}

    def pass_(self, seconds, *, changed=False):
        self.now += seconds
        self.feed.took(Gone(0) if changed else Tick(), (), self.now)
        self.feed.tick()


async def told(feed, viewer):
    """(event, data) of all that is new."""
    text = (await feed.next_for(viewer)).decode("ascii")
    messages = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.split("\n\n")[:-1]]
    return [(message["event"], json.loads(message["data"])) for message in messages]


class TestState:
    async def test_is_not_made_while_nobody_watches(self):
        run = Run()
        for _ in range(50):
            run.pass_(0.1, changed=True)
        assert run.made == 0

    async def test_is_made_once_for_all(self):
        run = Run()
        with run.feed.watching(None) as one, run.feed.watching(None) as other:
            for viewer in (one, other):
                assert [event for event, _ in await told(run.feed, viewer)] == ["status", "curve"]
            run.pass_(0.3, changed=True)
            assert await told(run.feed, one) == await told(run.feed, other) == [("status", {"made": 2})]
        assert run.made == 2

    @pytest.mark.parametrize(("workers", "least_seconds"), [(1, 0.25), (400, 0.4)])
    async def test_a_change_is_told_after_the_least_time_whatever_comes_first(self, workers, least_seconds):
        run = Run(workers)
        with run.feed.watching(None) as viewer:
            await told(run.feed, viewer)
            for _ in range(10):
                run.pass_(least_seconds / 11, changed=True)
                assert run.made == 1
            run.pass_(least_seconds / 10)
            assert run.made == 2

    async def test_a_decision_is_a_change(self):
        run = Run()
        with run.feed.watching(None) as viewer:
            await told(run.feed, viewer)
            run.decisions.add(Kind.OPTIMIZER, "lr 0.5")
            run.pass_(0.3)
            assert [event for event, _ in await told(run.feed, viewer)] == ["status", "decision"]

    async def test_no_change_is_told_after_the_most(self):
        run = Run()
        with run.feed.watching(None) as viewer:
            await told(run.feed, viewer)
            for _ in range(7):
                run.pass_(0.25)
            assert run.made == 1
            run.pass_(0.25)
            assert run.made == 2

    async def test_many_who_come_at_once_are_given_the_same(self):
        run = Run()
        for _ in range(100):
            with run.feed.watching(None) as viewer:
                await told(run.feed, viewer)
        assert run.made == 1

    async def test_one_who_comes_later_is_given_a_fresh_one(self):
        run = Run()
        for made in (1, 2):
            with run.feed.watching(None) as viewer:
                assert (await told(run.feed, viewer))[0] == ("status", {"made": made})
            run.now += 0.25


class TestSlowViewer:
    async def test_is_given_the_newest_and_what_is_remembered(self):
        run = Run(workers=1)
        with run.feed.watching(None) as viewer:
            await told(run.feed, viewer)
            for number in range(1000):
                run.version = number
                run.decisions.add(Kind.WAITS, str(number))
                run.pass_(1.0, changed=True)
            news = await told(run.feed, viewer)
            assert [event for event, _ in news] == ["status", "point"] + ["decision"] * 256
            assert news[0][1] == {"made": run.made}
            assert news[1][1]["groups"]["default"]["version"] == 999
            assert [data["detail"] for _, data in news[2:]] == [str(number) for number in range(744, 1000)]


class TestCurve:
    async def test_a_point_a_second_while_there_are_workers(self):
        run = Run(workers=1)
        for _ in range(35):
            run.pass_(0.1)
        with run.feed.watching(None) as viewer:
            _, (event, data) = await told(run.feed, viewer)
            assert event == "curve"
            assert [point["seconds"] for point in data["points"]] == pytest.approx([0.1, 1.1, 2.1, 3.1], abs=0.11)

    async def test_none_while_there_is_nobody(self):
        run = Run()
        for _ in range(35):
            run.pass_(1.0)
        with run.feed.watching(None) as viewer:
            assert (await told(run.feed, viewer))[1] == ("curve", {"points": []})

    async def test_what_comes_after_the_last_one_has_left_is_a_point_still(self):
        run = Run(workers=1)
        run.pass_(1.0)
        run.feed._machine = Machine(Settings(), epoch=1)
        run.version = 5
        for _ in range(3):
            run.pass_(1.0)
        with run.feed.watching(None) as viewer:
            _, (_, data) = await told(run.feed, viewer)
            assert [point["groups"]["default"]["version"] for point in data["points"]] == [0, 5]

    async def test_is_bounded_and_made_once_for_all(self):
        run = Run(workers=1)
        for _ in range(3000):
            run.pass_(1.0)
        with run.feed.watching(None) as one, run.feed.watching(None) as other:
            (_, (_, data)), again = await told(run.feed, one), await told(run.feed, other)
            assert again[1][1] == data
            assert MAX_POINTS / 3 < len(data["points"]) <= MAX_POINTS
            assert (data["points"][0]["seconds"], data["points"][-1]["seconds"]) == (1.0, 3000.0)


class TestEnd:
    async def test_the_last_is_told_and_then_nothing(self):
        run = Run()
        with run.feed.watching(None) as viewer:
            await told(run.feed, viewer)
            run.feed.stop()
            run.feed.stop()
            (_, _), (event, data) = await told(run.feed, viewer)
            assert (event, data["kind"]) == ("decision", "stopping")
            assert await run.feed.next_for(viewer) is None

    async def test_places(self):
        run = Run()
        with run.feed.watching(None):
            assert run.feed.viewers == 1
        assert run.feed.viewers == 0
        run.feed._viewers = set(range(limits.MAX_VIEWERS))
        with pytest.raises(WireError, match="64 are watching"), run.feed.watching(None):
            pass


class TestMessage:
    def test_is_one_line_of_ascii_without_nan(self):
        data = {
            "a": [float("nan"), float("inf"), {"b": -float("inf")}],
            "c": "zeile\n\r\u2028\x00",
            "d": (1.5, True),
        }
        event, line = _message("x", data).decode("ascii").removesuffix("\n\n").split("\n")
        assert event == "event: x"
        assert json.loads(line.removeprefix("data: ")) == {
            "a": [None, None, {"b": None}],
            "c": "zeile\n\r\u2028\x00",
            "d": [1.5, True],
        }
