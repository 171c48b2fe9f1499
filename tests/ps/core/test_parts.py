"""Groups that workers make: parts of what they train. How they read is in tests/scenarios/groups_made.txt."""

import copy
import json

import pytest

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join, Leave
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.ps.core.effects import Create, Finished
from leeway.ps.core.events import Asked, Tick
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.history import plain

NAMED = (
    GroupSettings(PolicyTerms("sync"), "head", ("head.*",), least_updates=2, until=3),
    GroupSettings(PolicyTerms("ssp", 2), least_updates=1),
)


def join(server, rank, *parts, session="s"):
    return server.ask(Join(rank, session, parts, parts))


def test_a_part_has_the_default_groups_settings(serve):
    server = serve(groups=NAMED, until=9)
    join(server, "w0", "G")
    part = server.machine.groups["G"]
    assert (part.policy.terms, part.least_updates, part.keys, part.until) == (PolicyTerms("ssp", 2), 1, ("G/*",), 9)


def test_without_a_default_group_those_of_the_last_one(serve):
    server = serve(groups=NAMED[:1])
    join(server, "w0", "G")
    assert server.machine.groups["G"].policy.terms == PolicyTerms("sync")


def test_a_group_that_is_there_is_joined_and_not_made(serve):
    server = serve(groups=NAMED)
    assert join(server, "w0", "head").groups.keys() == {"head"}
    assert join(server, "w1", "G").groups.keys() == {"G"}
    assert join(server, "w2", "G").groups.keys() == {"G"}
    assert server.machine.parts == ["G"]


def test_a_part_is_made_once_however_often_it_is_asked(serve):
    server = serve()
    made = [join(server, "w0", "G", "D") and sum(isinstance(effect, Create) for effect in server.effects)]
    made += [join(server, "w0", "G", "D") and sum(isinstance(effect, Create) for effect in server.effects)]
    assert made == [2, 0]


def test_an_old_join_that_comes_late_or_twice_changes_nothing(serve):
    server = serve("sync")
    first = Join("w0", "s", ("default",), one_after_another=True)
    server.ask(first)
    newer = Join("w0", "s", ("G", "D"), ("G", "D"), one_after_another=True, revision=1)
    server.ask(newer)
    before = save(server.machine)[0]
    for late in (first, Join("w0", "s")):
        told = server.ask(late)
        assert told.resumed
        assert told.groups.keys() == {"G", "D"}
        assert save(server.machine)[0] == before
    assert server.ask(newer).groups.keys() == {"G", "D"}


def test_there_are_not_more_groups_than_the_limit(serve):
    server = serve()
    names = tuple(f"part{number}" for number in range(limits.MAX_GROUPS))
    refused = join(server, "w0", *names)
    assert refused.error.code is Code.INVALID_VALUE
    assert f"has {limits.MAX_GROUPS} groups at most, and this one has 1" in refused.error.detail
    assert server.machine.membership.live() == []
    assert len(join(server, "w0", *names[1:]).groups) == limits.MAX_GROUPS - 1


def test_its_keys_are_its_own_whatever_the_patterns_of_others(serve):
    server = serve(groups=(GroupSettings(name="x", keys=("*.weight", "G/b")), GroupSettings()))
    join(server, "w0", "G")
    assert [server.machine.group_of(key) for key in ("G/0.weight", "G/b", "GG/b", "G")] == [
        "G",
        "G",
        "default",
        "default",
    ]


def test_all_means_those_that_the_server_was_started_with(serve):
    server = serve(groups=NAMED)
    join(server, "w0", "G")
    assert server.ask(Join("w1", "s")).groups.keys() == {"head", "default"}
    join(server, "w0", "E")
    assert server.ask(Join("w1", "s")).groups.keys() == {"head", "default"}


def test_who_has_pulled_in_a_group_stays_in_it(serve):
    server = serve()
    server.offer("w")
    w0 = server.join("w0", "s")
    server.pull(w0)
    assert join(server, "w0", "G").groups.keys() == {"default", "G"}


def test_who_waits_in_a_group_stays_in_it(serve):
    server = serve()
    w0 = server.join("w0", "s")
    request = server.send(Pull(life=w0, wait_seconds=9.0))
    assert join(server, "w0", "G").groups.keys() == {"default", "G"}
    assert request not in server.replies


def test_a_group_without_an_end_alone_has_none(serve):
    server = serve(groups=(GroupSettings(PolicyTerms("async"), until=0),), until=1)
    server.offer("w")
    w0 = server.join("w0")
    for clock in range(3):
        server.pull(w0, clock)
        server.push(w0, clock)
    assert not server.machine.finished


def test_who_computes_for_a_group_without_an_end_is_waited_for_and_who_is_gone_is_not(serve):
    groups = (
        GroupSettings(PolicyTerms("async"), "a", ("a*",)),
        GroupSettings(PolicyTerms("async"), "b", ("b*",), until=0),
    )
    server = serve(groups=groups, until=1, lease_seconds=5.0)
    server.offer("a", "b")
    w0, w1 = server.join("w0", groups=("a",)), server.join("w1", groups=("b",))
    server.pull(w1, group="b")
    server.pull(w0, group="a")
    server.push(w0, group="a")
    assert not server.machine.finished
    assert server.pull(w0, 1, group="a").error.code is Code.FINISHED
    assert Finished() in server.tick(6.0)


def test_what_is_still_being_applied_is_waited_for_though_nobody_is_there_any_more(serve):
    groups = tuple(GroupSettings(PolicyTerms("async"), name, (f"{name}*",), until=1) for name in "ab")
    server = serve(groups=groups)
    server.offer("a", "b")
    w0, w1 = server.join("w0", groups=("a",)), server.join("w1", groups=("b",))
    server.pull(w0, group="a")
    server.push(w0, group="a")
    server.pull(w1, group="b")
    server.holding = True
    server.push(w1, group="b")
    server.ask(Leave(w1))
    assert not server.machine.finished
    assert Finished() in server.publish()


def test_a_pull_that_is_asked_again_at_the_end_gives_the_iteration_up(serve):
    groups = (
        GroupSettings(PolicyTerms("sync"), "a", ("a*",)),
        GroupSettings(PolicyTerms("sync"), "b", ("b*",), until=0),
    )
    server = serve(groups=groups, until=1)
    server.offer("a", "b")
    w0 = server.join("w0")
    server.pull(w0, group="b")
    server.pull(w0, group="a")
    server.push(w0, group="a")
    assert not server.machine.finished
    told = server.pull(w0, group="b")
    assert told.error.detail == "the other parts of the run are complete"
    assert server.machine.finished
    assert server.push(w0, group="b").error.code is Code.NOT_GRANTED


def test_parts_and_how_lives_ask_are_saved(serve):
    server = serve("sync")
    server.ask(Join("w0", "s", ("G",), ("G",), one_after_another=True, revision=2))
    state = json.loads(json.dumps(save(server.machine)[0]))
    assert state["parts"] == ["G"]
    machine = restore(server.machine.settings, state, [], 1, 0.0)
    assert machine.parts == ["G"]
    assert machine.membership.of_rank("w0").one_after_another
    assert machine.membership.of_rank("w0").revision == 2
    assert machine.groups["G"].policy.terms == PolicyTerms("sync")


def test_a_saved_part_may_be_a_group_of_the_configuration_by_now(serve):
    server = serve("sync")
    join(server, "w0", "G")
    state = json.loads(json.dumps(save(server.machine)[0]))
    named = Settings((GroupSettings(name="G", keys=("G/*",), until=4), GroupSettings()))
    machine = restore(named, state, [], 1, 0.0)
    assert (machine.parts, machine.groups["G"].until) == ([], 4)


def test_states_of_before_there_were_parts(serve):
    server = serve("sync")
    server.join("w0")
    state = json.loads(json.dumps(save(server.machine)[0]))
    del state["parts"], state["ranks"]["w0"]["lives"][0]["one_after_another"]
    del state["ranks"]["w0"]["lives"][0]["revision"]
    machine = restore(server.machine.settings, state, [], 1, 0.0)
    assert machine.parts == []
    assert not machine.membership.of_rank("w0").one_after_another


@pytest.mark.parametrize("parts", [["H"], "G", [1], {"G": 1}])
def test_parts_that_cannot_be(serve, parts):
    server = serve("sync")
    join(server, "w0", "G")
    state = json.loads(json.dumps(save(server.machine)[0])) | {"parts": parts}
    with pytest.raises(ValueError, match=r"parts|group"):
        restore(server.machine.settings, state, [], 1, 0.0)


def test_a_life_that_is_missed_elsewhere_and_asks_for_more_is_not_silent(serve):
    """Its push is being applied meanwhile: that is the server's time, not its own."""
    groups = tuple(GroupSettings(PolicyTerms("ssp", 0), name, (f"{name}*",)) for name in "ab")
    server = serve(groups=groups, workers=2, lease_seconds=5.0)
    server.offer("a", "b")
    w0, w1 = (Life(rank, 1, 1) for rank in ("w0", "w1") if server.ask(Join(rank, "s")))
    for life, group in ((w0, "a"), (w1, "b")):
        server.pull(life, group=group)
        server.push(life, group=group)
        server.pull(life, 1, group=group)
    server.pull(w0, group="b")
    server.holding = True
    server.push(w0, group="b")
    for _ in range(3):
        server.tick(4.0)
    assert [member.rank for member in server.machine.membership.live()] == ["w0"]


def test_ticks_that_lead_to_nothing_change_nothing(serve):
    """They are not in a history, and a machine that is given the rest decides the same."""
    groups = tuple(GroupSettings(PolicyTerms("sync"), name, (f"{name}*",)) for name in "ab")
    server = serve(groups=groups, workers=2, lease_seconds=5.0)
    server.offer("a", "b")
    lives = [Life(rank, 1, 1) for rank in ("w0", "w1") if server.ask(Join(rank, "s"))]
    for life, group in zip(lives, "ab", strict=True):
        server.pull(life, group=group)
        server.push(life, group=group)
    machines = [copy.deepcopy(server.machine) for _ in range(2)]
    pulls = [Pull(group, life, 1, wait_seconds=99.0) for life, group in zip(lives, "ab", strict=True)]
    ticking = [(Asked(90, pulls[0]), 1.0), (Asked(91, pulls[1]), 2.0), *((Tick(), now) for now in (3.0, 6.0, 7.5))]
    told = [plain(machines[0].step(event, now)) for event, now in ticking]
    assert [bool(effects) for effects in told] == [True, True, False, False, True]
    assert [plain(machines[1].step(*ticking[place])) for place in (0, 1, 4)] == [told[place] for place in (0, 1, 4)]


def test_behind_a_restart_the_end_is_there_from_the_start(serve):
    """Of what is still computed nobody begins more, whatever comes first."""
    groups = tuple(
        GroupSettings(PolicyTerms("async"), name, (f"{name}*",), until=until) for name, until in (("a", 1), ("b", 0))
    )
    server = serve(groups=groups, workers=2)
    server.offer("a", "b")
    w0, w1 = server.join("w0"), server.join("w1")
    server.pull(w1, group="b")
    for life in (w0, w1):
        server.pull(life, group="a")
        server.push(life, group="a")
    assert server.machine.groups["b"].over
    assert not server.machine.finished
    state = json.loads(json.dumps(save(server.machine)[0]))
    server.machine = restore(server.machine.settings, state, [], 1, 0.0)
    assert server.pull(w0, group="b").error.code is Code.FINISHED
    server.push(w1, group="b")
    assert server.machine.finished


def test_a_part_whose_keys_are_in_another_group_is_not_made(serve):
    server = serve()
    server.offer("G/w")
    refused = join(server, "w0", "G")
    assert refused.error.code is Code.SCHEMA_CONFLICT
    assert "its key 'G/w' is in group default" in refused.error.detail
    assert server.machine.membership.live() == []


def test_at_the_end_whoever_waits_in_the_other_groups_is_told(serve):
    groups = tuple(
        GroupSettings(PolicyTerms("sync"), name, (f"{name}*",), until=until) for name, until in (("a", 1), ("b", 0))
    )
    server = serve(groups=groups, workers=2)
    server.offer("a", "b")
    w0, w1 = server.join("w0"), server.join("w1")
    server.pull(w0, group="b")
    server.push(w0, group="b")
    waits = server.send(Pull("b", w0, 1, wait_seconds=99.0))
    server.pull(w1, group="b")
    for life in (w0, w1):
        server.pull(life, group="a")
    for life in (w0, w1):
        server.push(life, group="a")
    assert server.replies[waits].error.code is Code.FINISHED
    assert not server.machine.finished
    server.push(w1, group="b")
    assert server.machine.finished
    assert server.machine.groups["b"].published == 2


def test_how_it_reads():
    assert str(Create("G")) == "create G"
