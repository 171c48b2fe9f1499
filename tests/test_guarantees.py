"""The checker of histories finds what it is there to find: a recorded run passes, and no doctored one does."""

import json

import pytest

from leeway.protocol.lives import Life
from leeway.protocol.membership import Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.quarantine import Release
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core import saved
from leeway.ps.core.effects import Adopt, Apply, Initialize
from leeway.ps.core.events import Asked, Published, Stop
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.history import plain
from tests.guarantees import Violated, check, read

WEIGHT = TensorSpec("weight", (2, 3), "float32", Kind.TRAINABLE)


class Recording:
    """A machine whose arithmetic is done at once, and the history it makes."""

    def __init__(self, mode, bound=None, **limits):
        self.machine = Machine(Settings((GroupSettings(PolicyTerms(mode, bound), **limits),), workers=2), epoch=1)
        self.rows = [
            {
                "is": "Started",
                "epoch": 1,
                "settings": plain(self.machine.settings),
                "state": saved.save(self.machine)[0],
            }
        ]
        self.requests = 0
        self.lives = {}
        self.ask(Offer((WEIGHT,)))
        for rank in ("w0", "w1"):
            self.ask(Join(rank, session=rank))
            self.lives[rank] = self.machine.membership.of_rank(rank)

    def happen(self, event):
        effects = self.machine.step(event, float(len(self.rows)))
        row = {"t": len(self.rows), "event": plain(event), "effects": [plain(effect) for effect in effects]}
        self.rows.append(json.loads(json.dumps(row)))
        for effect in effects:
            if isinstance(effect, Apply | Initialize | Adopt):
                self.happen(Published(effect.group, effect.number))

    def ask(self, message, norm=None):
        self.requests += 1
        self.happen(Asked(self.requests, message, norm))

    def pull(self, rank):
        life = self.lives[rank]
        self.ask(Pull(life=self.name(rank), clock=life.groups["default"].clock, wait_seconds=9.0))

    def push(self, rank, kind=UpdateKind.GRADIENT, norm=None):
        progress = self.lives[rank].groups["default"]
        version, round_number = progress.grants[-1]
        samples = 0 if kind is UpdateKind.SKIP else 8
        self.ask(Push(self.name(rank), progress.clock, version, kind, samples, round=round_number), norm)

    def push_again(self):
        """The last push once more, as after a lost reply."""
        last = next(row["event"] for row in reversed(self.rows) if asked(row, "Push"))["message"]
        life = self.name(last["life"]["rank"])
        self.ask(Push(life, last["clock"], last["version"], UpdateKind(last["kind"]), 8, round=last["round"]))

    def name(self, rank):
        return Life(rank, 1, self.lives[rank].number)


def asked(row, kind):
    return row.get("event", {}).get("message", {}).get("is") == kind


@pytest.fixture
def ssp():
    """w0 runs ahead of w1 to its bound, waits, goes on; a reply is lost; w1 leaves."""
    run = Recording("ssp", 1)
    for rank in ("w0", "w0", "w1", "w0", "w1"):
        run.pull(rank)
        run.push(rank)
    run.push_again()
    run.pull("w0")
    run.push("w0", UpdateKind.SKIP)
    run.ask(Leave(run.name("w1")))
    run.happen(Stop())
    return run.rows


@pytest.fixture
def sync():
    """Two rounds, and half of a third."""
    run = Recording("sync")
    for _ in range(2):
        for rank in ("w0", "w1"):
            run.pull(rank)
        for rank in ("w1", "w0"):
            run.push(rank)
    run.pull("w0")
    run.push("w0")
    return run.rows


@pytest.fixture
def limited():
    """w1 pushes what is too large until it is kept out, and is let in again."""
    run = Recording("async", max_update_norm=10.0)
    for norm in (9.0, 11.0, 12.0, 13.0):
        run.pull("w1")
        run.push("w1", norm=norm)
    run.ask(Join("w1", session="another"))
    run.ask(Release("w1"))
    run.ask(Join("w1", session="another"))
    return run.rows


def every(rows, kind):
    """The effects, events, messages and replies of this type, wherever they stand."""
    for row in rows:
        yield from _every(row, kind)


def _every(value, kind):
    if isinstance(value, dict):
        if value.get("is") == kind:
            yield value
        for part in value.values():
            yield from _every(part, kind)
    elif isinstance(value, list):
        for part in value:
            yield from _every(part, kind)


def test_facts_of_an_eager_run(ssp):
    facts = check(ssp)
    assert facts.largest_lag == 1
    assert facts.applied == {
        (1, "default", rank, 1, clock): version
        for rank, clock, version in (
            ("w0", 0, 2),
            ("w0", 1, 3),
            ("w1", 0, 4),
            ("w0", 2, 5),
            ("w1", 1, 6),
        )
    }
    assert sorted(facts.told.values()) == ["applied"] * 5 + ["skipped"]
    assert facts.staleness == [0, 0, 0, 0, 0]
    assert [one[1:] for one in facts.ended] == [("w1", 1, "left")]


def test_facts_of_rounds(sync):
    facts = check(sync)
    assert sorted(facts.applied.values()) == [2, 2, 3, 3]
    assert facts.held == {(1, "default", "w0", 1, 2)}


def change(kind, place=0, **fields):
    def doctor(rows):
        list(every(rows, kind))[place].update(fields)

    return doctor


def remove_row(kind, place=0):
    def doctor(rows):
        matching = [row for row in rows if any(True for _ in _every(row, kind))]
        rows.remove(matching[place])

    return doctor


def remove_effect(kind, place=0):
    def doctor(rows):
        effect = list(every(rows, kind))[place]
        for row in rows:
            row["effects"] = [one for one in row.get("effects", ()) if one is not effect]

    return doctor


def apply_a_body_again(rows):
    first, second, *_ = every(rows, "Apply")
    second["contributions"] = first["contributions"]


def lower_the_bound(rows):
    rows[0]["state"]["groups"]["default"]["staleness"] = 0


def apply_and_forget(rows):
    last = list(every(rows, "Apply"))[-1]
    for row in rows:
        row["effects"] = [one for one in row.get("effects", ()) if one is not last]
    rows.remove([row for row in rows if row.get("event", {}).get("is") == "Published"][-1])


@pytest.mark.parametrize(
    ("doctor", "guarantee"),
    [
        (apply_a_body_again, "what is applied was pushed, and once"),
        (apply_and_forget, "what is told is what was done"),
        (lower_the_bound, "no pull is answered beyond the bound"),
        (change("Granted", 1, lag=0), "the lag is clock minus min clock"),
        (change("Granted", 2, version="1.2"), "a pull gets the newest version"),
        (change("Granted", 0, clock=1), "a pull is of the clock's iteration"),
        (change("Pushed", -2, disposition="held"), "what is told is what was done"),
        (change("Apply", 1, number=4), "versions grow by one"),
        (change("Apply", 1, staleness=7), "staleness is counted in versions"),
        (change("Contribution", 0, samples=9), "the weight is what was pushed"),
        (change("Contribution", 0, rank="w1"), "an update is its own rank's"),
        (change("Published", 1, number=3), "versions come out in their order"),
        (change("Began", 1, rank="w0"), "a rank has one life"),
        (change("Ended", 0, incarnation=2), "only a live one ends"),
        (change("GroupState", 1, clock=3), "a joiner starts at the min clock"),
        (remove_row("Pull"), "a push follows its granted pull"),
    ],
)
def test_what_must_not_happen_to_an_eager_run(ssp, doctor, guarantee):
    doctor(ssp)
    with pytest.raises(Violated, match=guarantee):
        check(ssp)


def leave_one_out(rows):
    next(every(rows, "Apply"))["contributions"].pop()


def close_early(rows):
    row = next(row for row in rows if asked(row, "Push"))
    row["effects"].append(next(every(rows, "RoundClosed")))


@pytest.mark.parametrize(
    ("doctor", "guarantee"),
    [
        (leave_one_out, "nothing is left of the round before"),
        (close_early, "a round closes when nobody is missing"),
        (lambda rows: next(every(rows, "Apply"))["contributions"].reverse(), "in the order of the ranks"),
        (change("RoundOpened", 0, members=["w0"]), "all that are live are in the round"),
        (change("Granted", 0, round=1), "a pull is a member's"),
        (change("RoundClosed", 0, contributors=["w0"]), "all that is held is in the step"),
        (remove_effect("RoundClosed", 1), "a step is made when its round is closed"),
    ],
)
def test_what_must_not_happen_in_rounds(sync, doctor, guarantee):
    doctor(sync)
    with pytest.raises(Violated, match=guarantee):
        check(sync)


@pytest.mark.parametrize(
    ("doctor", "guarantee"),
    [
        (change("Asked", 4, norm=10.5), "no update beyond the limit of its norm is taken"),
        (remove_effect("Released"), "who is in quarantine has no life"),
        (remove_effect("Quarantined"), "who is let in was kept out"),
        (change("Quarantined", 0, rank="w0"), "who is in quarantine has no life"),
    ],
)
def test_what_must_not_happen_to_bad_workers(limited, doctor, guarantee):
    check(limited)
    doctor(limited)
    with pytest.raises(Violated, match=guarantee):
        check(limited)


class TestReading:
    START = '{"is":"Started","epoch":1}'

    def test_half_a_line_is_let_pass_where_a_server_was_killed(self, tmp_path):
        path = tmp_path / "history.jsonl"
        path.write_text(f'{self.START}\n{{"t":1,"ev\n{self.START}\n{{"t"')
        assert read(path) == [json.loads(self.START)] * 2

    def test_half_a_line_elsewhere_is_none(self, tmp_path):
        path = tmp_path / "history.jsonl"
        path.write_text(f'{self.START}\n{{"t":1,"ev\n{{"t":2}}\n')
        with pytest.raises(Violated, match="only a killed server breaks off"):
            read(path)
