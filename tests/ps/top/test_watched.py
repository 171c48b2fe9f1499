import pytest

from leeway.ps.top.stream import Message
from leeway.ps.top.watched import Watched
from tests.ps.top.telling import decision, leads, point, status, worker


def watched(*messages, group=None):
    one = Watched("http://test", group)
    for event, data in messages:
        one.take(Message(event, data))
    return one


def test_the_share_waiting_is_that_of_the_last_half_minute():
    one = watched(
        *(("status", status(worker("w0", 0, waited=0.0), seconds=seconds)) for seconds in (0.0, 0.25, 60.0)),
        ("status", status(worker("w0", 0, waited=6.0), seconds=80.0)),
    )
    assert one.share_waiting("w0", 1) == pytest.approx(6 / 20)


def test_nothing_is_said_of_a_worker_that_has_just_come():
    one = watched(
        ("status", status(worker("w0", 0), seconds=5.0)),
        ("status", status(worker("w0", 0), worker("w1", 0), seconds=10.0)),
        ("status", status(worker("w0", 0, incarnation=2), worker("w1", 0, waited=0.5), seconds=10.5)),
    )
    assert one.share_waiting("w0", 2) is None
    assert one.share_waiting("w1", 1) is None
    assert one.share_waiting("w9", 1) is None
    one.take(Message("status", status(worker("w1", 0, waited=1.0), seconds=12.0)))
    assert one.share_waiting("w1", 1) == pytest.approx(0.5)


def test_a_share_is_a_share_whatever_was_told():
    one = watched(
        ("status", status(worker("w0", 0, waited=5.0), worker("w1", 0), seconds=1.0)),
        ("status", status(worker("w0", 0, waited=0.0), worker("w1", 0, waited=9.0), seconds=3.0)),
    )
    assert (one.share_waiting("w0", 1), one.share_waiting("w1", 1)) == (0.0, 1.0)


def test_rates_are_those_of_the_last_seconds():
    one = watched(
        ("status", status(seconds=1.0, steps=0, updates=0)),
        ("status", status(seconds=10.0, steps=500, updates=500)),
        ("status", status(seconds=12.0, steps=520, updates=560)),
    )
    assert one.rates() == (10.0, 30.0)


def test_one_who_has_just_begun_to_watch_takes_them_from_the_curve():
    one = watched(
        ("status", status(seconds=30.0)),
        ("curve", {"points": [point(10, updates=0), point(20, updates=100), point(22, updates=140)]}),
    )
    assert one.rates() == (20.0, 20.0)
    assert watched(("status", status()), ("curve", {"points": [point(1)]})).rates() is None
    assert watched(("status", status())).rates() is None


def test_losses():
    one = watched(
        ("status", status()),
        ("curve", {"points": [point(1), point(2, 0.5)]}),
        ("point", point(3, 0.4)),
        ("point", {"seconds": 4, "groups": {}}),
    )
    assert one.losses() == [(2, 0.5), (3, 0.4)]


def test_who_is_waited_for():
    one = watched(
        (
            "status",
            status(
                worker("w0", 9, 4, "waiting", why=leads("w0", "w1", 4, 3)),
                worker("w1", 5),
                worker("w2", 9, 4, "waiting", why={"reason": "lag", "detail": "", "waiting_for": ["w1", "w3"]}),
            ),
        ),
    )
    assert one.awaited() == {"w1": 2, "w3": 1}


def test_a_server_that_was_started_anew_begins_anew():
    before = [("status", status(worker("w0", 0), seconds=50.0)), ("curve", {"points": [point(1, 0.5), point(2, 0.4)]})]
    for after in (status(worker("w0", 0), seconds=60.0, epoch=18), status(worker("w0", 0), seconds=1.0)):
        one = watched(*before, ("decision", decision(1, "joined", "")), ("status", after))
        assert one.losses() == []
        assert one.rates() is None
        assert len(one.decisions) == 1


def test_what_is_kept_is_bounded():
    one = watched(("status", status()))
    for number in range(2000):
        one.take(Message("status", status(seconds=10 + number / 4)))
        one.take(Message("decision", decision(number, "waits", "")))
        one.take(Message("point", point(number, 1.0)))
    assert len(one.decisions) <= 100
    assert len(one.losses()) <= 1024
    assert len(one._samples) <= 32


def test_a_loss_is_dated_by_its_first_moment_and_ends_with_the_next_message():
    one = watched(("status", status()))
    one.lost(100.0, "silent")
    one.lost(105.0, "refused")
    assert (one.lost_since, one.lost_because) == (100.0, "refused")
    one.take(Message("anything new", None))
    assert one.lost_since is None


def test_the_group():
    groups = {name: status()["groups"]["default"] | {"version": number} for number, name in enumerate("ab")}
    one = worker("w0", 3)
    one["groups"] = {"b": one["groups"]["default"]}
    told = status(one, groups=groups)
    other = watched(("status", told), group="a")
    assert other.group_name == "a"
    assert list(other.workers()) == []
    chosen = watched(("status", told), group="b")
    assert chosen.group["version"] == 1
    assert [progress["clock"] for _, progress in chosen.workers()] == [3]
    with pytest.raises(LookupError, match="there is no group 'c'; this server has a, b"):
        watched(("status", told), group="c")


def in_groups(*workers, groups=("emb", "default", "head"), **changes):
    """A state with these groups, and workers as rank -> the groups that it has joined."""
    rows = []
    for rank, joined in workers:
        row = worker(rank, 3)
        row["groups"] = dict.fromkeys(joined, row["groups"]["default"])
        rows.append(row)
    return status(*rows, groups={name: status()["groups"]["default"] for name in groups}, **changes)


def test_without_a_wish_it_is_the_first_group_that_has_workers():
    assert watched(("status", in_groups())).group_name == "default"
    assert watched(("status", in_groups(groups=("emb", "head")))).group_name == "emb"
    assert watched(("status", in_groups(("w0", ["head"])))).group_name == "head"
    assert watched(("status", in_groups(("w0", ["head"]), ("w1", ["default", "head"])))).group_name == "default"


def test_the_group_that_was_found_stays():
    one = watched(("status", in_groups(seconds=1.0, steps=1)))
    found = [one.group_name]
    for number, workers in enumerate(([("w0", ["head"])], [("w1", ["default"]), ("w0", ["head"])], [("w1", ["emb"])])):
        one.take(Message("status", in_groups(*workers, seconds=2.0 + number)))
        found.append(one.group_name)
    one.take(Message("status", in_groups(("w1", ["emb"]), seconds=0.5)))
    assert [*found, one.group_name] == ["default", "head", "head", "head", "emb"], "another start looks anew"


def test_rates_are_those_of_the_group_that_was_found():
    def told(seconds, *workers):
        state = in_groups(*workers, seconds=seconds)
        for name, group in state["groups"].items():
            state["groups"][name] = group | {"steps": 1000 if name == "default" else int(seconds), "updates": 0}
        return "status", state

    head = ("w0", ["head"])
    assert watched(told(0.0), told(1.0, head), told(3.0, head)).rates() == (1.0, 0.0)
