"""What a person sees, as text of a fixed width."""

import io
import os
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from leeway.ps.top.screen import render
from leeway.ps.top.stream import Message
from leeway.ps.top.watched import Watched
from tests.ps.top.telling import START, decision, leads, point, status, worker


@pytest.fixture(autouse=True)
def _universal_time(monkeypatch):
    monkeypatch.setitem(os.environ, "TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


WORKERS = (
    worker("w0", 649, 4, "waiting", waited=8.0, loss=0.1741461604833603, why=leads("w0", "w1", 4, 3)),
    worker("w1", 645, loss=12.5),
    worker("w2", 647, 2, loss=None),
    worker("w10", 646, 1, "idle", loss=123456.0),
)


def watched(*workers, group=None, **changes):
    one = Watched("http://127.0.0.1:8080", group)
    idle = [worker(told["rank"], 0) for told in workers]
    one.take(Message("status", status(*idle, seconds=10.0, steps=0)))
    one.take(Message("status", status(*idle, seconds=26.0, steps=192, updates=420)))
    one.take(Message("status", status(*workers, seconds=30.0, steps=240, updates=500, **changes)))
    return one


RUN = watched(*WORKERS, staleness=(700, 250, 49, 0, 1))
RUN.take(Message("curve", {"points": [point(second, 2.4 - 0.02 * second) for second in range(100)]}))
for number, (kind, rank, detail) in enumerate(
    (("joined", "w0", "life 1 of this rank"), ("waits", "w0", "w0 leads w1 by 4 > 3"), ("switched", None, "to\nssp")), 1
):
    RUN.take(Message("decision", decision(number, kind, detail, rank)))


def shown(one, width=80, height=None, now=START, **console):
    out = Console(file=io.StringIO(), width=width, **({"color_system": None} | console))
    out.print(render(one, width, height, now), soft_wrap=True)
    return out.file.getvalue().rstrip("\n").splitlines()


@pytest.mark.parametrize(
    ("policy", "aggregation", "words"),
    [
        ({"mode": "sync"}, "mean", "sync"),
        ({"mode": "sync"}, "krum:1", "sync  krum:1"),
        ({"mode": "sync", "quorum": 3, "grace_seconds": 0.5}, "mean", "sync (quorum 3, grace 0.5 s)"),
        ({"mode": "sync", "quorum": 3, "grace_seconds": None}, "median", "sync (quorum 3, grace auto)  median"),
        ({"mode": "sync", "switching_at": 9}, "mean", "sync, a switch is under way"),
        ({"mode": "async"}, "mean", "async"),
    ],
)
def test_the_policy_is_shown_with_what_bounds_it(policy, aggregation, words):
    told = status(worker("w0", 1))
    told["groups"]["default"] |= {"policy": policy, "aggregation": aggregation}
    one = Watched("http://127.0.0.1:8080", None)
    one.take(Message("status", told))
    assert shown(one)[1].startswith(f"{words}  version 101  ")


def test_the_whole_picture():
    assert shown(RUN) == [
        "leeway 0.1.0  http://127.0.0.1:8080                                      up 30 s",
        "ssp (bound 3)  version 241  epoch 17  12.0 steps/s  20.0 updates/s",
        "4 workers, 1 waiting for w1",
        "",
        "worker   clock  lag              waited     loss  what it does",
        "w0         649    4 █████████│██    40%   0.1741  waits for w1: 4 ahead, max 3",
        "w1         645    0          │       0%  12.5000  WAITED FOR, computes",
        "w2         647    2 ██████   │       0%           computes",
        "w10        646    1 ███      │       0% 1.23e+05  idle",
        "",
        "loss 2.4000 ████▇▇▇▇▇▇▇▆▆▆▆▆▆▆▅▅▅▅▅▅▅▅▄▄▄▄▄▄▃▃▃▃▃▃▃▃▂▂▂▂▂▂▂▁▁▁▁ 0.4200 over 1:39",
        "",
        "staleness   ███  ▃▃▃  ▁▁▁       ▁▁▁",
        "versions      0    1    2    3    5",
        "            70%  25%   5%       <1%",
        "",
        "decisions",
        "02:20:07 switched    to ssp",
        "02:20:06 waits       w0: w0 is 4 ahead of w1, 3 allowed",
        "02:20:05 joined      w0: life 1 of this rank",
    ]


@pytest.mark.parametrize("width", [20, 40, 79, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 8, 10, 13, 17, 24, 60])
def test_it_fits(width, height):
    for one in (RUN, watched(), watched(*(worker(f"rank-with-a-long-name-{n}", 7) for n in range(100)))):
        lines = shown(one, width, height)
        assert len(lines) <= height
        assert all(cell_len(line) <= max(width, 40) for line in lines)


def test_what_gives_way_when_the_terminal_is_small():
    titles = ("loss", "staleness", "decisions", "w10")
    there = {height: {title for title in titles if any(line.startswith(title) for line in shown(RUN, 80, height))}
             for height in (24, 17, 15, 12, 9)}  # fmt: skip
    assert there[24] == set(titles)
    assert there[17] == {"loss", "staleness", "w10"}
    assert there[15] == {"loss", "staleness", "w10"}
    assert there[12] == {"loss", "w10"}
    assert there[9] == {"w10"}


def test_of_the_decisions_some_are_as_good_as_all():
    lines = shown(RUN, 80, 19)
    assert lines[-2:] == ["02:20:07 switched    to ssp", "02:20:06 waits       w0: w0 is 4 ahead of w1, 3 allowed"]


def test_those_who_wait_and_those_who_are_waited_for_come_first():
    crowd = [worker(f"w{n}", 10, 0 if n == 77 else 3) for n in range(100)]
    crowd[42] = worker("w42", 14, 4, "waiting", why=leads("w42", "w77", 4, 3))
    crowd[50] = worker("w50", 14, 0, "idle")
    lines = shown(watched(*crowd), 80, 12)
    ranks = [line.split()[0] for line in lines[4:]]
    assert ranks == ["w77", "w42", "w0", "w1", "w2", "w3", "w4", "..."]
    assert lines[-1] == "... and 93 more: 92 computing, 1 idle"
    assert len(shown(watched(*crowd))) == 105


def test_a_thousand_workers_are_cheap():
    crowd = [worker(f"w{n}", 14, 4, "waiting", why=leads(f"w{n}", "w999", 4, 3)) for n in range(999)]
    one = watched(*crowd, worker("w999", 10))
    began = time.process_time()
    lines = shown(one, 80, 24)
    assert time.process_time() - began < 0.5
    assert "WAITED FOR by 999, computes" in lines[4]
    assert lines[2] == "1000 workers, 999 waiting for w999"


def test_a_round_that_waits():
    why = {"reason": "waiting-for-round", "detail": "round 7 waits for w1", "waiting_for": ["w1"]}
    lines = shown(watched(worker("w0", 7, 1, "waiting", why=why), worker("w1", 6), mode="sync", bound=None))
    assert lines[1].startswith("sync  version 241")
    assert lines[5].endswith("waits for w1 to end the round")
    assert "│" not in lines[5]
    why = {"reason": "own-update", "detail": "", "waiting_for": []}
    assert shown(watched(worker("w0", 7, 1, "waiting", why=why)))[5].endswith("waits for its own update")


def test_rounds_without_a_step():
    one = watched(*WORKERS)
    for rounds, words in ((0, ""), (1, "the last round made no step: too few updates; ")):
        one.status["groups"]["default"]["rounds_since_step"] = rounds
        assert shown(one)[2] == f"{words}4 workers, 1 waiting for w1"
    one.status["groups"]["default"]["rounds_since_step"] = 443
    assert shown(one)[2].startswith("the last 443 rounds made no step: too few updates; 4 workers")


def test_a_worker_that_was_late():
    why = {"reason": "next-round", "detail": "w1 goes on with round 8; round 7 waits for w0", "waiting_for": ["w0"]}
    rows = [worker("w0", 7), worker("w1", 8, 1, "waiting", why=why), worker("w2", 7)]
    for row, late in zip(rows, (True, True, False), strict=True):
        row["groups"]["default"] |= {"late_updates": 4, "newest_late": late}
    lines = shown(watched(*rows, mode="sync", bound=None), 100)
    assert lines[5].endswith("WAITED FOR, computes; its update was late")
    assert lines[6].endswith("waits for w0, then goes on; its update was late")
    assert lines[7].endswith("  computes")


@pytest.mark.parametrize(
    ("policy", "aggregation", "line"),
    [
        ({"mode": "sync"}, "mean", "sync  version 241  epoch 1796032452838  12.0 steps/s  20.0 updates/s"),
        (
            *({"mode": "sync", "quorum": 12, "grace_seconds": None}, "mean"),
            "sync (quorum 12, grace auto)  version 241  12.0 steps/s  20.0 updates/s",
        ),
        (
            *({"mode": "sync", "quorum": 12, "grace_seconds": 0.25}, "geometric-median"),
            "sync (quorum 12, grace 0.25 s)  geometric-median  version 241  12.0 steps/s",
        ),
    ],
)
def test_the_head_is_not_cut_in_80_columns(policy, aggregation, line):
    one = watched(*WORKERS)
    one.status["epoch"] = 1796032452838
    one.status["groups"]["default"] |= {"policy": policy, "aggregation": aggregation}
    assert shown(one)[1] == line


@pytest.mark.parametrize(("lag", "drawn"), [(0, " " * 12), (1, "███" + " " * 9), (4, "█" * 12), (9, "█" * 12)])
def test_the_bar_of_a_lag_without_a_bound(lag, drawn):
    line = shown(watched(worker("w0", 7), worker("w1", 7 + lag, lag), mode="sync", bound=None))[6]
    assert line == f"w1     {7 + lag:>7} {lag:>4} {drawn}     0%           computes"


def test_decisions_name_the_group_where_there_are_several():
    told = decision(1, "waits", "round 0 waits for w1", "w0") | {"group": "head"}
    switched = decision(2, "switched", "to ssp") | {"group": "head"}
    finished = decision(3, "finished", "the end")
    for names, words in (
        (("default",), ["w0: round 0 waits for w1", "to ssp", "the end"]),
        (("default", "head"), ["w0 in head: round 0 waits for w1", "head: to ssp", "the end"]),
    ):
        one = Watched("http://test")
        one.take(Message("status", status(groups={name: status()["groups"]["default"] for name in names})))
        for row in (told, switched, finished):
            one.take(Message("decision", row))
        assert [line[21:] for line in shown(one)[-1:-4:-1]] == words


def test_a_state_that_has_no_room_for_all():
    lines = shown(watched(*WORKERS, live_workers=12_004))
    assert lines[2] == "4 workers (12000 more not shown), 1 waiting for w1"
    assert shown(watched(*WORKERS, live_workers=4))[2] == "4 workers, 1 waiting for w1"


def test_a_server_that_lets_anybody_in_says_so():
    open_to_all = watched(*WORKERS)
    open_to_all.status["insecure"] = True
    assert shown(open_to_all)[2] == "insecure: whoever reaches this server owns the model (--insecure)"
    assert not any("insecure" in line for line in shown(RUN))


def test_nobody_is_there():
    lines = shown(watched())
    assert lines[2] == "0 workers, none waiting"
    assert lines[4:] == ["no worker is here"]


def test_nothing_has_come_yet():
    assert shown(Watched("http://test")) == ["http://test: nothing has come yet"]


def test_the_server_is_silent():
    one = watched(*WORKERS)
    one.lost(START + 100, "no connection: Connection refused")
    lines = shown(one, now=START + 225)
    assert lines[2] == "the server does not answer since 02:21:44 (2:05): no connection: Connection refused"[:79] + "…"
    assert lines[5].startswith("w0 ")


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({"finished": True}, "the run is finished", "the run is finished; the server stopped at 02:21:44"),
        (
            {"finished": True, "over": "loss is 0.1"},
            "the run is finished: loss is 0.1",
            "the run is finished; the server stopped at 02:21:44",
        ),
        ({"stopping": True}, "the server is stopping", "the server stopped at 02:21:44"),
    ],
)
def test_the_end_of_a_run(changes, before, after):
    one = watched(**changes)
    assert shown(one)[2] == before
    one.lost(START + 100, "it has ended the connection")
    assert shown(one)[2] == after


def test_of_several_groups_it_is_said_which_one_is_shown():
    groups = {name: status()["groups"]["default"] for name in ("body", "head")}
    one = Watched("http://test", "head")
    one.take(Message("status", status(groups=groups)))
    assert shown(one)[0].startswith("leeway 0.1.0  http://test  group head")


def test_a_server_that_tells_less():
    told = status(worker("w0", 1))
    for name in ("steps", "updates", "staleness"):
        del told["groups"]["default"][name]
    del told["program"]
    del told["workers"][0]["groups"]["default"]["waiting_seconds"]
    one = Watched("http://test")
    one.take(Message("status", told))
    assert shown(one)[-1].startswith("w0 ")


def test_colors_and_none():
    colored = "\n".join(shown(RUN, color_system="standard", force_terminal=True, no_color=False))
    assert "\x1b[" in colored
    assert "\x1b[" not in "\n".join(shown(RUN))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1:01"), (3599, "59:59"), (36_000, "10:00:00")]
)
def test_times(seconds, words):
    one = Watched("http://test")
    one.take(Message("status", status(seconds=seconds)))
    assert shown(one)[0].endswith(f"up {words}")


def stage(number, computed=None, waited=None, state="computing"):
    told = {"computed_seconds": computed, "waited_seconds": waited}
    return {"stage": number, "state": state, "lease_left_seconds": 9.0} | told


REPLICA = worker("r0", 12) | {
    "stages": [stage(0, 0.3, 0.7), stage(1, 0.9, 0.1), stage(2, state="waiting")],
    "holding": 1,
}
FORMING = [{"rank": f"r{number}", "stages": 12, "missing": list(range(number, 12))} for number in range(1, 7)]


class TestReplicas:
    def test_a_replica_has_a_line_for_its_stages(self):
        lines = shown(watched(REPLICA, worker("w1", 12)))
        place = next(place for place, line in enumerate(lines) if line.startswith("r0"))
        assert lines[place + 1].split() == ["stages", "0:30%", "1:90%", "holds", "2:waiting"]
        assert lines[place + 2].startswith("w1")

    def test_a_few_of_the_replicas_that_lack_stages_are_named(self):
        lines = [line for line in shown(watched(worker("w1", 3), forming=FORMING)) if "waits for stage" in line]
        assert len(lines) == 4
        assert lines[0] == "r1 waits for stages 1, 2, 3, 4, 5, 6, 7, 8, ... of 12"
        [line] = shown(watched(forming=[{"rank": "r0", "stages": 2, "missing": [1]}]))[4:5]
        assert line == "r0 waits for stage 1 of 2"

    def test_lanes_have_the_room_before_stages_have(self):
        replicas = [REPLICA | {"rank": f"r{number}"} for number in range(4)]
        lines = shown(watched(*replicas, forming=FORMING[:1]), height=9)
        assert len(lines) == 9
        assert not any(line.strip().startswith("stages") for line in lines)
        assert [line.split()[0] for line in lines[-4:]] == ["r0", "r1", "r2", "r3"]
