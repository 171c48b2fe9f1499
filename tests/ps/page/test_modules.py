"""The page's modules that only count: the stream's format, rates, series, words. They run where they will be used."""

import json

import pytest

from leeway.protocol.reasons import Reason
from tests.end_to_end.commands import Commands
from tests.ps.page.matrix import disagreements

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def modules(browser, tmp_path_factory):
    """`modules(module, expression)`: the value of a JavaScript expression in which `m` is the module."""
    with Commands(tmp_path_factory.mktemp("server")) as running:
        browser.open(running.serve().url + "/")
        yield browser.imported


def test_a_stream_is_taken_apart_wherever_it_is_cut(modules):
    text = (
        ': hello\nevent: status\r\ndata: {"a":\r\ndata: 1}\r\n\r\nid: 7\rdata:x\r\revent: empty\n\ndata\n\nretry: 1\n\n'
    )
    whole = [
        {"event": "status", "data": '{"a":\n1}', "id": None},
        {"event": "message", "data": "x", "id": "7"},
        {"event": "message", "data": "", "id": None},
    ]
    script = f"""(() => {{
        const text = {json.dumps(text)};
        const cuts = [...Array(text.length + 1).keys()].map((cut) => {{
            const parser = new m.Parser();
            return [...parser.feed(text.slice(0, cut)), ...parser.feed(text.slice(cut))];
        }});
        const parser = new m.Parser();
        return [...cuts, [...text].flatMap((letter) => parser.feed(letter))];
    }})()"""
    found = modules("sse.js", script)
    assert len(found) == len(text) + 2
    assert all(messages == whole for messages in found)


def test_rates_are_differences_of_totals_of_one_life(modules):
    script = """(() => {
        const trail = new m.Trail(30);
        const said = [];
        for (let at = 0; at <= 100; at += 0.25) {
            const totals = new Map([['steady', at * 4], ['late', Math.max(0, at - 95) * 2]]);
            totals.set('reborn', at < 98 ? at : at - 98);
            if (at > 99.9) totals.set('new', 5);
            trail.add(at, totals);
        }
        return ['steady', 'late', 'reborn', 'new', 'unknown'].map((name) => [trail.rate(name), trail.rate(name, 5)]);
    })()"""
    steady, late, reborn, new, unknown = modules("trail.js", script)
    assert steady == pytest.approx([4, 4])
    assert late == pytest.approx([10 / 30, 2], abs=0.02)
    assert reborn == pytest.approx([1, 1]), "the total before the new life does not count"
    assert new == unknown == [None, None], "one measurement says nothing of a rate"
    script = """(() => {
        const trail = new m.Trail();
        trail.add(0, new Map([['w', 0]]));
        trail.add(0.1, new Map([['w', 0.1]]));
        const soon = trail.share('w');
        trail.add(2, new Map([['w', 2.1]]));
        return [soon, trail.share('w')];
    })()"""
    assert modules("trail.js", script) == [None, 1], "too soon to say; and no more than all of the time"


POINTS = [
    {
        "seconds": at,
        "groups": {"g": {"version": at * 2, "updates": at * 6, "min_clock": at // 2, "figures": figures}},
    }
    for at, figures in enumerate([{}, {"loss": 3.0, "accuracy": 0.1}, {"loss": None}, {"loss": 2.0, "b": 1.0}])
]


def test_curves_leave_out_what_was_not_measured(modules):
    points = json.dumps(POINTS)
    assert modules("figures.js", f"m.figureNames({points}, 'g')") == ["loss", "accuracy", "b"]
    assert modules("figures.js", f"m.series({points}, 'g', 'loss')") == [{"x": 1, "y": 3}, {"x": 3, "y": 2}]
    assert modules("figures.js", f"m.series({points}, 'g', 'loss', 'min_clock')") == [
        {"x": 0, "y": 3},
        {"x": 1, "y": 2},
    ]
    assert modules("figures.js", f"m.series({points}, 'other', 'loss')") == []
    assert modules("figures.js", f"m.rates({points}, 'g', 'updates')") == [{"x": x, "y": 6} for x in (1, 2, 3)]


def test_the_history_is_bounded_and_in_order(modules):
    script = """(() => {
        let points = [];
        for (let seconds = 0; seconds < 5000; seconds += 1) points = m.extended(points, {seconds});
        points = m.extended(points, {seconds: 17});
        return points.map((point) => point.seconds);
    })()"""
    seconds = modules("figures.js", script)
    assert 512 <= len(seconds) <= 1024
    assert seconds == sorted(set(seconds))
    assert seconds[-1] == 4999


def test_ticks_and_histograms(modules):
    assert modules("figures.js", "m.ticks(0, 10, 5)") == [0, 2, 4, 6, 8, 10]
    assert modules("figures.js", "m.ticks(0.31, 0.47, 4)") == pytest.approx([0.35, 0.4, 0.45])
    assert modules("figures.js", "[0.7, 1, 3, 99].map(m.roundUp)") == pytest.approx([1, 1, 5, 100])
    assert modules("figures.js", "m.bucketNames([0, 1, 3, 5])") == ["0", "1", "2–3", "4–5", ">5"]
    assert modules("figures.js", "m.histogramMean([0, 1, 3], [3, 1, 0, 0])") == {"mean": 0.25, "exact": True}
    assert modules("figures.js", "m.histogramMean([0, 1, 3], [0, 0, 2, 0])") == {"mean": 2.5, "exact": False}
    assert modules("figures.js", "m.histogramMean([0, 1], [0, 0, 0])") is None


def test_words(modules):
    said = modules("words.js", "[0, 3.21, 59.9, 61, 3700, 90000, NaN].map(m.duration)")
    assert said == ["0.0 s", "3.2 s", "59 s", "1 min 01 s", "1 h 01 min", "1 d 1 h", "–"]
    assert modules("words.js", "[null, 0, 0.001, 0.426, 1].map(m.percent)") == [
        "–",
        "0\u202f%",
        "<1\u202f%",
        "43\u202f%",
        "100\u202f%",
    ]
    said = modules("words.js", "[0.12345, 12.3456, 12345, 0.00001, null].map(m.figure)")
    assert said == ["0.1235", "12.35", "12345", "1.00\u2009e-5", "NaN"]
    assert modules("words.js", "m.names(['a', 'b', 'c', 'd'])") == "a, b, c and 1 more"
    modes = [
        {"mode": "sync", "staleness": None, "switching_at": 91},
        {"mode": "async", "staleness": None, "switching_at": None},
        {"mode": "ssp", "staleness": 0, "switching_at": None},
        {"mode": "ssp", "staleness": 3, "switching_at": None},
        {"mode": "sync", "staleness": None, "quorum": 3, "grace_seconds": 0.5},
        {"mode": "sync", "staleness": None, "quorum": 3, "grace_seconds": None, "switching_at": 7},
        {"mode": "sync", "staleness": None, "quorum": 3, "grace_seconds": 0},
    ]
    assert modules("words.js", f"{json.dumps(modes)}.map((policy) => m.policy(policy, 'mean'))") == [
        "sync: all in rounds, from clock 91 on",
        "async: no bound",
        "ssp: nobody ahead",
        "ssp: at most 3 ahead",
        "sync: rounds of 3, then 0.5 s of grace",
        "sync: rounds of 3, then a grace, from clock 7 on",
        "sync: rounds of 3",
    ]
    assert modules("words.js", "m.policy({ mode: 'sync', staleness: null }, 'krum:1')") == "sync: all in rounds, krum:1"


def worker(rank, clock, state="computing", awaited=0, held=0.0, reason="lag", whom=(), stall=0.0):
    why = {"reason": reason, "detail": f"{rank} waits", "waiting_for": list(whom)} if state == "waiting" else None
    measured = {"heldShare": held, "stallShare": stall, "waitingShare": 0.0, "silentSeconds": None}
    return {"rank": rank, "clock": clock, "lag": clock, "state": state, "why": why, "awaitedBy": awaited} | measured


def waits(rank, whom, held=0.0):
    return worker(rank, 1, "waiting", held=held, whom=[whom])


def view(mode, workers, staleness=None, switching_at=None, **more):
    policy = {"mode": mode, "staleness": staleness, "switching_at": switching_at}
    round_ = {"number": 7, "state": "open", "waits_for": []}
    known = {"policy": policy, "workers": workers, "forming": [], "round": round_, "min_clock": 0}
    return known | {"version": 9, "until": None} | more


@pytest.mark.parametrize(
    ("seen", "headline"),
    [
        (view("ssp", []), "No worker is here"),
        (view("ssp", [], version=0), "No worker has joined yet"),
        (view("ssp", [], forming=[{"rank": "r0", "stages": 3, "missing": [0, 2]}]), "r0 waits for stages 0 and 2"),
        (view("ssp", [worker("a", 0), worker("b", 1)]), "Nobody holds the others up"),
        (view("ssp", [worker("a", 0, held=0.9), worker("b", 1)]), "a holds the others up"),
        (view("ssp", [worker("a", 0, held=0.3), worker("b", 0, held=0.4)]), "b and a hold the others up"),
        (view("ssp", [worker("a", 0, held=0.1), worker("b", 1, "waiting")]), "Nobody holds the others up"),
        (view("ssp", [worker("a", 0, awaited=1, held=0.1, stall=0.3), waits("b", "a")]), "Nobody holds the others up"),
        (view("ssp", [worker("a", 0, awaited=1, held=0.1, stall=0.9), waits("b", "a")]), "a holds the others up"),
        (view("ssp", [worker("a", 0, awaited=1, held=None), waits("b", "a", held=0.0)]), "a holds the others up"),
        (view("ssp", [worker("a", 0, held=None, awaited=1), worker("b", 1, held=None)]), "a holds the others up"),
        (view("sync", [worker("a", 0, "waiting", reason="waiting-for-workers")]), "Waiting for more workers"),
        (view("sync", [], rounds_since_step=3), "No worker is here"),
        (view("sync", [worker("a", 0, held=0.9)], rounds_since_step=1), "The last round made no step"),
        (view("sync", [waits("b", "a")], rounds_since_step=443), "The last 443 rounds made no step"),
        (view("sync", [worker("a", 0)], rounds_since_step=0), "Nobody holds the others up"),
    ],
)
def test_the_verdict(modules, seen, headline):
    said = modules("glance.js", f"m.glance({json.dumps(seen)}, null)")
    assert said["headline"] == headline
    assert disagreements(said["headline"], said["detail"], said["short"]) == []


def test_why_rounds_make_no_step(modules):
    seen = view("sync", [worker("a", 0), waits("b", "a")], rounds_since_step=4, aggregation="krum:1")
    said = modules("glance.js", f"m.glance({json.dumps(seen)}, null)")
    assert said["detail"] == "There were fewer updates than krum:1 needs; nothing is published. 1 worker waits now."


@pytest.mark.parametrize(
    ("over", "headline", "detail"),
    [
        (None, "The run has finished at clock 20", "7 versions of the model were made."),
        ("loss is 0.1", "The run has finished", "Loss is 0.1. 7 versions of the model were made."),
    ],
)
def test_why_a_run_has_finished(modules, over, headline, detail):
    seen = view("sync", [], until=20, over=over, version=7)
    said = modules("glance.js", f"m.glance({json.dumps(seen)}, 'finished')")
    assert (said["headline"], said["detail"]) == (headline, detail)


@pytest.mark.parametrize(
    ("groups", "joined", "first"),
    [
        (["emb", "default", "head"], [], {"name": "default", "found": False}),
        (["emb", "head"], [], {"name": "emb", "found": False}),
        (["emb", "default", "head"], [["head"]], {"name": "head", "found": True}),
        (["emb", "default", "head"], [["head"], ["default", "head"]], {"name": "default", "found": True}),
        ([], [], {"name": None, "found": False}),
    ],
)
def test_the_group_of_one_who_has_not_chosen_is_the_first_with_workers(modules, groups, joined, first):
    status = {
        "groups": {name: {} for name in groups},
        "workers": [{"groups": {name: {} for name in names}} for names in joined],
    }
    script = f"(() => {{ const run = new m.Run(); run.status = {json.dumps(status)}; return run.firstGroup; }})()"
    assert modules("run.js", script) == first


SIZES = [0, *(10.0**power for power in range(-300, 301, 20)), 4e9, 999.95, 99_999.5, 1e5, 0.005]


def test_a_number_of_any_size_has_a_handful_of_characters(modules):
    most = {"figure": 10, "count": 10, "rate": 10, "whole": 20, "duration": 14, "setting": 10}
    for name, letters in most.items():
        said = modules("words.js", f"{json.dumps(SIZES)}.map(m.{name})")
        assert max(map(len, said)) <= letters, said
        assert not [words for words in said if "undefined" in words or "NaN" in words]
    assert modules("words.js", "[0, 0.001, 6.546, 1e9].map(m.rate)") == ["0", "<0.01", "6.55", "1G"]
    assert modules("words.js", "[null, undefined, Infinity, NaN].map(m.figure)") == ["NaN", "–", "–", "–"]
    assert modules("words.js", "[9999, 91666, 999950, 4e9, 6.4e11].map(m.count)") == [
        "9\u202f999",
        "91.7k",
        "1M",
        "4G",
        "640G",
    ]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 4e9, ["0", "1e9", "2e9", "3e9", "4e9"]),
        (0, 40_000, ["0", "10k", "20k", "30k", "40k"]),
        (10_000, 10_004, ["10000", "10001", "10002", "10003", "10004"]),
        (0, 4e-12, ["0", "1e-12", "2e-12", "3e-12", "4e-12"]),
        (-1e300, 1e300, ["-1e300", "-5e299", "0", "5e299", "1e300"]),
        (0.2, 0.6, ["0.2", "0.3", "0.4", "0.5", "0.6"]),
        (1e6, 1.4e6, ["1e6", "1.1e6", "1.2e6", "1.3e6", "1.4e6"]),
    ],
)
def test_ticks_of_any_size_can_be_told_apart(modules, low, high, ticks):
    values = modules("figures.js", f"m.ticks({low}, {high}, 4)")
    step = values[1] - values[0]
    largest = max(abs(low), abs(high))
    assert modules("words.js", f"{json.dumps(values)}.map((value) => m.tick(value, {step}, {largest}))") == ticks


def test_names_of_any_length_can_be_told_apart(modules):
    long = [f"worker-{'x' * 50}-{number:06}" for number in range(5)]
    short = modules("words.js", f"{json.dumps(long)}.map((name) => m.shortName(name))")
    assert len(set(short)) == 5
    assert {len(name) for name in short} == {24}
    assert modules("words.js", f"m.names({json.dumps(long)})").endswith(" and 2 more")


@pytest.mark.parametrize("reason", [one for one in Reason if one not in (Reason.LAG, Reason.SWITCHING)])
def test_no_reason_is_told_by_the_servers_word_for_it(modules, reason):
    one = worker("a", 4, "waiting", reason=str(reason), whom=["b"])
    said = modules("words.js", f"m.doing({json.dumps(one)}, 3)")
    assert said.startswith("waits")
    assert str(reason) not in said


def test_leads_and_switches_in_words(modules):
    one = worker("a", 4, "waiting", whom=["b", "c"])
    assert modules("words.js", f"m.doing({json.dumps(one)}, 3)") == "waits for b and c: 4 ahead, 3 allowed"
    late = worker("a", 4, "waiting", reason="next-round", whom=["b"]) | {"newestLate": True}
    said = modules("words.js", f"m.doing({json.dumps(late)}, null)")
    assert said == "waits for b, then goes on with the next round; its update was late"
    late = worker("a", 4) | {"newestLate": True}
    assert modules("words.js", f"m.doing({json.dumps(late)}, null)") == "computing; its update was late"
    one = worker("a", 4, "waiting", reason="switching", whom=["b"])
    assert modules("words.js", f"m.doing({json.dumps(one)}, 3)") == "waits for b, then sync begins"
    assert modules("words.js", "m.plain('a leads b and c by 4 > 3')") == "a is 4 ahead of b and c, 3 allowed"


STATE = {"policy": {"mode": "ssp", "staleness": 3, "switching_at": None}, "version": 1, "steps": 1, "updates": 1}


def told(seconds, held, *, mode="ssp", ranks=("w0", "w1"), epoch=1):
    def one(rank):
        progress = {"clock": 1, "lag": 0, "state": "computing", "waiting_seconds": 0.0, "held_seconds": held}
        return {"rank": rank, "incarnation": 1, "lease_left_seconds": 9.0, "groups": {"g": progress}}

    group = STATE | {"policy": STATE["policy"] | {"mode": mode}, "min_clock": 0}
    state = {"epoch": epoch, "uptime_seconds": seconds, "until": None, "groups": {"g": group}}
    return state | {"workers": [one(rank) for rank in ranks]}


def seen_of(modules, *states):
    script = f"""(() => {{
        const run = new m.Run();
        for (const state of {json.dumps(states)}) run.take('status', state);
        return run.view('g');
    }})()"""
    return modules("run.js", script)


def test_what_was_measured_before_a_switch_is_not_held_against_anybody(modules):
    before = [told(at, at / 2) for at in (10.0, 15.0, 20.0)]
    assert seen_of(modules, *before)["workers"][0]["heldShare"] == 0.5
    just = seen_of(modules, *before, told(20.2, 10.0, mode="async"))
    assert just["workers"][0]["heldShare"] is None
    later = seen_of(modules, *before, told(20.2, 10.0, mode="async"), told(21.0, 10.0, mode="async"),
                    told(22.2, 10.0, mode="async"))  # fmt: skip
    assert later["workers"][0]["heldShare"] == 0
    assert later["heldOver"] == pytest.approx(2)


def test_a_server_that_resumed_with_its_epoch_is_measured_anew(modules):
    """A stop in good order keeps the epoch; the uptime begins at zero."""
    view = seen_of(modules, told(500.0, 100.0), told(510.0, 110.0), told(0.5, 0.0), told(2.5, 1.0))
    assert view["workers"][0]["heldShare"] == 0.5
    assert view["gone"] == []


def test_who_has_gone_is_remembered_by_what_was_waited_for(modules):
    states = told(10.0, 3.0), told(12.0, 4.0, ranks=("w0",)), told(14.0, 5.0, ranks=())
    gone = seen_of(modules, *states)["gone"]
    assert sorted((one["rank"], one["heldSeconds"]) for one in gone) == [("w0", 4), ("w1", 3)]
    assert seen_of(modules, *states, told(1.0, 0.0, epoch=2))["gone"] == []


def test_the_gate(modules):
    def track(seen):
        return modules("glance.js", f"m.track({json.dumps(seen)})")

    field = [worker("a", 0), worker("b", 3)]
    assert track(view("ssp", field, 2)) == {"last": 3, "gate": 2.5, "label": "bound 2"}
    assert track(view("ssp", field, 1000)) == {"last": 4, "gate": None, "label": "bound 1\u202f000 →"}
    assert track(view("sync", [worker("a", 0)])) == {"last": 1, "gate": 0.5, "label": "round 7"}
    assert track(view("async", field)) == {"last": 4, "gate": None, "label": ""}
    assert track(view("sync", field, switching_at=5)) == {"last": 5, "gate": 4.5, "label": "sync from 5"}


def test_of_many_those_that_matter_are_shown(modules):
    field = [worker(f"w{index}", 1) for index in range(100)]
    field[40] = worker("w40", 0, awaited=99, held=1.0)
    field[70] = worker("w70", 9)
    field[80] |= {"silentSeconds": 9}
    field[90] |= {"waitingShare": 0.9}
    shown = modules("glance.js", f"m.notable({json.dumps(field)}, 6)")
    ranks = [one["rank"] for one in shown]
    assert {"w40", "w70", "w80", "w90"} <= set(ranks)
    assert len(ranks) == 6
    assert ranks == sorted(ranks, key=lambda rank: int(rank[1:]))


RANKS = {"ranks": [], "count": 0}


def previewed(mode, **more):
    policy = {"group": "default", "mode": mode, "staleness": None, "switching_at": None} | more.pop("policy", {})
    nothing = {"changes": True, "round": None, "held": 0, "needed": 0}
    return {"policy": policy, **nothing, **dict.fromkeys(("late", "let_go", "will_wait", "waiting_for"), RANKS), **more}


def those(*ranks, count=None):
    return {"ranks": list(ranks), "count": count or len(ranks)}


@pytest.mark.parametrize(
    ("preview", "now", "said"),
    [
        (previewed("async", changes=False), "async", ["This is the policy in force."]),
        (
            previewed("sync", changes=False, policy={"switching_at": 7}),
            "async",
            ["This is on its way: it begins at clock 7."],
        ),
        (
            previewed("async", let_go=those("w0"), round=3, held=1),
            "sync",
            [
                "Round 3 closes at once, as one step with 1 update. Who still computes for it has its update applied "
                "on arrival.",
                "w0 waits now and goes on at once.",
                "The learning rate stays 0.1. There will be 4 steps where there was one: start from a rate 4 times "
                "smaller.",
            ],
        ),
        (
            previewed("ssp", will_wait=those("w0", "w1", "w2", "w3", count=70), waiting_for=those("w9")),
            "ssp",
            ["As things stand w0, w1, w2 and 67 more have to wait for w9, now or at the next pull."],
        ),
        (previewed("ssp"), "ssp", ["As things stand nobody has to wait because of it."]),
        (
            previewed("sync", policy={"switching_at": 9, "quorum": 2}),
            "async",
            ["It opens with 2; who is not there then loses the update in hand."],
        ),
        (
            previewed("sync", policy={"quorum": 2, "grace_seconds": 0}, round=3, held=2, late=those("w2", "w3")),
            "sync",
            [
                "Round 3 has 2 updates, which is enough: it closes at once.",
                "w2 and w3 still compute for it: an update that comes too late is dropped.",
            ],
        ),
        (
            previewed("sync", round=3, needed=2, waiting_for=those("w5")),
            "sync",
            [
                "Round 3 goes on: it closes with 2 more.",
                "The next round waits for w5, whom the quorum has left behind.",
            ],
        ),
    ],
)
def test_what_a_switch_will_do_in_words(modules, preview, now, said):
    group = {"mode": now, "learningRate": 0.1, "workers": 4}
    found = modules("foresight.js", f"m.ofPolicy({json.dumps(preview)}, {json.dumps(group)})")
    assert [sentence for sentence in said if sentence not in found] == []


OPTIMIZER = {
    **{"kind": "sgd", "lr": 0.1, "learning_rate": 0.1, "lr_schedule": "constant", "warmup_steps": 0, "steps": 50},
    **{"momentum": None, "min_lr": 0.0},
}


@pytest.mark.parametrize(
    ("changes", "lr", "said"),
    [
        ({}, 0.1, "This is the rate in force."),
        ({}, 0.2, "From the next step on the rate is 0.2 instead of 0.1, 2 times larger."),
        ({}, 0, "No step moves a trained parameter while it is 0."),
        ({"lr": 0}, 0.1, "From the next step on the rate is 0.1 instead of 0."),
        ({"kind": "nesterov"}, 0.2, "in the long run a gradient counts 10 times."),
        ({"kind": "adam"}, 0.2, "What adam has gathered of earlier gradients stays."),
        (
            {"lr_schedule": "cosine", "learning_rate": 0.05},
            0.2,
            "The schedule (cosine) goes on from step 50: the next step is made with 0.1.",
        ),
        ({"lr_schedule": "cosine", "min_lr": 0.01}, 0.2, "The schedule (cosine) goes on from step 50."),
    ],
)
def test_what_another_rate_will_do_in_words(modules, changes, lr, said):
    found = modules("foresight.js", f"m.ofLearningRate({json.dumps(OPTIMIZER | changes)}, {lr}).join(' ')")
    assert said in found
