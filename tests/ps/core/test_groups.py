"""The golden scenarios show what a group does in a run; here stands what each branch of it decides."""

from __future__ import annotations

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.membership import Heartbeat, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, LastPush, Pushed, PushPulled, Staged, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import PolicyState, SetPolicy
from leeway.protocol.versions import Version
from leeway.ps.core.effects import Apply, Contribution, Drop, RoundClosed
from leeway.ps.core.events import Failed, Gone, Published
from leeway.ps.core.settings import GroupSettings


def the(kind, effects):
    (effect,) = [effect for effect in effects if isinstance(effect, kind)]
    return effect


@pytest.fixture
def two(serve):
    """Two workers under a policy, with parameters."""

    def start(mode="async", staleness=None, **settings):
        server = serve(mode, staleness, workers=2, **settings)
        server.offer()
        return server, server.join("w0"), server.join("w1")

    return start


# Pulls.


def test_a_grant_says_all_that_a_worker_needs(two):
    server, _, w1 = two("sync")
    assert server.pull(w1) == Granted(Version(1, 1), Reason.GRANTED, clock=0, round=0, lag=0, index=1, count=2)


def test_the_lag_of_a_grant_is_the_clock_minus_the_min_clock(two):
    server, w0, _ = two("ssp", 3)
    server.walk(w0)
    server.walk(w0, 1)
    assert server.pull(w0, 2).lag == 2


def test_what_the_asker_holds_already_need_not_come_again(two):
    server, w0, _ = two()
    assert server.pull(w0, since=Version(1, 1)).unchanged
    assert not server.pull(w0, since=Version(2, 1)).unchanged
    assert server.ask(Pull(since=Version(1, 1))) == Granted(Version(1, 1), Reason.READER, count=2, unchanged=True)


def test_a_pull_of_another_iteration_is_told_the_clock(two):
    server, w0, _ = two()
    told = server.pull(w0, 3)
    assert (told.error.code, told.error.facts) == (Code.WRONG_CLOCK, {"clock": 0})


def test_a_worker_too_may_ask_for_a_version_to_come(two):
    server, w0, w1 = two()
    waiting = server.send(Pull(life=w0, min_version=2, wait_seconds=9))
    assert waiting not in server.replies
    server.walk(w1)
    assert server.replies[waiting].version == Version(1, 2)


def test_the_iteration_that_is_over_is_not_granted_any_more(two):
    server, w0, _ = two()
    server.pull(w0)
    waiting = server.send(Pull(life=w0, min_version=9, wait_seconds=9))
    server.push(w0)
    assert server.replies[waiting].error.code is Code.WRONG_CLOCK
    assert not server.machine.groups["default"].roster.progress("w0").grants


def test_a_newer_pull_takes_the_place_of_the_older(two):
    server, w0, _ = two("sync")
    server.walk(w0)
    first = server.send(Pull(life=w0, clock=1, wait_seconds=9))
    server.send(Pull(life=w0, clock=1, wait_seconds=9))
    assert server.replies[first].reason is Reason.REPLACED


def test_the_same_grant_is_remembered_once(two):
    server, w0, _ = two()
    server.pull(w0)
    server.now = 5.0
    server.pull(w0)
    progress = server.machine.groups["default"].roster.progress("w0")
    assert (list(progress.grants), progress.granted_at) == ([(1, None)], 0.0)


def test_pulls_at_the_end_of_the_run_are_told_so(two):
    server, w0, _ = two("async", until=1)
    server.walk(w0)
    assert server.pull(w0, 1).error.code is Code.FINISHED


# Pushes.


def test_a_push_on_arrival_makes_a_version_of_its_own(two):
    server, w0, w1 = two()
    server.pull(w1)
    server.walk(w0)
    assert server.push(w1) == Pushed(0, Disposition.APPLIED, Reason.ON_ARRIVAL, version=3, staleness=1)


def test_what_is_to_be_applied_on_arrival(two):
    server, w0, w1 = two()
    server.pull(w1)
    server.walk(w0)
    server.holding = True
    server.push(w1, kind=UpdateKind.DELTA, samples=9)
    assert server.coming == [Published("default", 3)]
    group = server.machine.groups["default"]
    assert (group.decided, group.published, list(group.in_flight)) == (3, 2, [3])


def test_a_round_makes_one_step(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    assert server.push(w0, samples=3) == Pushed(0, Disposition.HELD, Reason.IN_ROUND)
    server.holding = True
    assert server.push(w1, samples=5).disposition is Disposition.HELD
    assert server.machine.groups["default"].published == 1
    server.publish()
    assert server.machine.groups["default"].rounds.number == 1


def test_a_round_takes_one_kind(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    server.push(w0, kind=UpdateKind.DELTA)
    assert server.push(w1).error.code is Code.INVALID_VALUE
    assert server.push(w1, kind=UpdateKind.DELTA).disposition is Disposition.HELD


def test_a_skip_moves_the_clock_and_publishes_nothing(two):
    server, w0, _ = two()
    server.pull(w0)
    assert server.push(w0, kind=UpdateKind.SKIP) == Pushed(0, Disposition.SKIPPED, Reason.SKIPPED)
    group = server.machine.groups["default"]
    assert (group.decided, group.clock_of("w0"), group.schema_closed) == (1, 1, False)


def test_parts_are_used_together_in_their_order(two):
    server, w0, _ = two()
    server.pull(w0)
    assert server.push(w0, part=1, parts=2, keys=("b",)) == Staged(0, (0,))
    server.holding = True
    server.push(w0, part=0, parts=2, keys=("w",))
    made = server.machine.groups["default"].in_flight
    assert list(made) == [2]
    assert server.machine.groups["default"].roster.progress("w0").staged == {}


def test_bodies_are_named_by_the_requests_that_brought_them(two):
    server, w0, _ = two()
    server.pull(w0)
    first, second = server.requests + 1, server.requests + 2
    server.push(w0, part=1, parts=2, keys=("b",))
    effects = []
    step = server.machine.step
    server.machine.step = lambda event, now: effects.extend(step(event, now)) or []
    server.push(w0, part=0, parts=2, keys=("w",))
    assert the(Apply, effects).contributions == (Contribution("w0", 4, (second, first)),)


def test_the_push_comes_with_the_next_pull(two):
    server, w0, w1 = two("ssp", 0)
    server.pull(w0)
    server.pull(w1)
    asked = server.requests + 1
    assert server.push(w0, pull=True) is None
    server.push(w1)
    both = server.replies[asked]
    assert isinstance(both, PushPulled)
    assert both.pushed.disposition is Disposition.APPLIED
    assert both.pulled.clock == 1


def test_the_pull_is_judged_by_what_is_true_after_the_push(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    server.push(w0, kind=UpdateKind.SKIP)
    both = server.push(w1, kind=UpdateKind.SKIP, pull=True, wait_seconds=None)
    assert both.pulled.round == 1


def test_a_push_of_the_dead_is_told_with_their_refusal(two):
    server, w0, _ = two()
    server.pull(w0)
    server.holding = True
    asked = server.requests + 1
    server.push(w0, pull=True)
    server.ask(Leave(w0))
    server.publish()
    both = server.replies[asked]
    assert both.pushed.disposition is Disposition.APPLIED
    assert both.pulled.error.code is Code.LEFT


def test_repeats_wait_for_the_disposition_unless_they_are_gone(two):
    server, w0, _ = two()
    server.pull(w0)
    server.holding = True
    server.offer("b")
    first = server.requests + 1
    server.push(w0)
    server.push(w0, version=1)
    server.push(w0, version=1)
    server.step(Gone(first + 1))
    server.publish()
    assert server.replies[first].reason is Reason.ON_ARRIVAL
    assert first + 1 not in server.replies
    assert server.replies[first + 2].reason is Reason.REPEATED


def test_an_offer_whose_asker_is_gone_is_stored_and_not_answered(two):
    server, *_ = two()
    server.holding = True
    request = server.send(Offer((TensorSpec("b", (3,), "float32", Kind.TRAINABLE),)))
    server.step(Gone(request - 1))
    server.step(Gone(request))
    assert server.publish()[-1] == Drop((request,))
    assert request not in server.replies
    assert set(server.machine.groups["default"].specs) == {"w", "b"}


def test_versions_come_out_in_order(two):
    server, *_ = two()
    with pytest.raises(AssertionError, match="v3 came out after v1"):
        server.step(Published("default", 3))


# Read my writes.


def test_a_contributor_waits_for_the_version_with_its_update(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    server.push(w0)
    server.holding = True
    server.ask(SetPolicy(PolicyTerms("async")))
    assert server.pull(w0, 1, wait_seconds=None).reason is Reason.OWN_UPDATE
    assert server.pull(w1).version == Version(1, 1)
    server.publish()
    assert server.pull(w0, 1).version == Version(1, 2)


def test_a_new_life_owes_nothing_to_the_old_ones_update(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    server.push(w0)
    again = server.join("w0", "another")
    server.holding = True
    server.push(w1)
    assert server.machine.groups["default"].roster.progress("w0").owed == 0
    assert server.pull(again, 1, wait_seconds=None).reason is Reason.WAITING_FOR_STEP


def test_the_contribution_of_one_who_left_is_owed_to_nobody(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    server.push(w0)
    server.ask(Leave(w0))
    assert server.push(w1).disposition is Disposition.HELD
    assert server.machine.groups["default"].published == 2


# Coming and going.


def test_a_joiner_is_told_clock_policy_schema_and_its_last_push(two):
    server, w0, _ = two()
    server.walk(w0)
    group = server.machine.groups["default"]
    state = group.state_for(group.roster.of_rank("w0"))
    assert (state.clock, state.policy, state.last) == (1, "async", LastPush(0, Disposition.APPLIED))
    assert [spec.name for spec in state.specs] == ["w"]
    assert group.state_for(group.roster.of_rank("w1")).last is None


@pytest.mark.parametrize(("mode", "bound", "clock"), [("async", None, 0), ("ssp", 1, 0), ("sync", None, 1)])
def test_where_a_joiner_starts(two, mode, bound, clock):
    server, w0, _ = two(mode, bound)
    server.walk(w0)
    server.join("w2")
    assert server.machine.groups["default"].clock_of("w2") == clock


def test_staged_parts_go_with_their_worker(two):
    server, w0, _ = two()
    server.pull(w0)
    body = server.requests + 1
    server.push(w0, part=0, parts=2)
    member = server.machine.membership.of_rank("w0")
    effects = server.tick(10.0)
    assert member.ended is Reason.LEASE_EXPIRED
    assert the(Drop, effects) == Drop((body,))


# Switching.


def test_the_policy_in_force_again_changes_nothing(two):
    server, *_ = two("ssp", 2)
    decided = server.machine.groups["default"].policy
    assert server.ask(SetPolicy(PolicyTerms("ssp", 2))) == PolicyState("default", PolicyTerms("ssp", 2))
    assert server.machine.groups["default"].policy is decided


def test_the_clock_of_the_first_round_counts_an_answered_pull(two):
    server, w0, _ = two()
    server.walk(w0)
    assert server.ask(SetPolicy(PolicyTerms("sync"))) == PolicyState("default", PolicyTerms("sync"), 1)
    server.ask(SetPolicy(PolicyTerms("async")))
    server.pull(w0, 1)
    assert server.ask(SetPolicy(PolicyTerms("sync"))).switching_at == 2
    # Then it is fixed.
    assert server.ask(SetPolicy(PolicyTerms("sync"))).switching_at == 2
    server.join("w2")
    assert server.machine.groups["default"].clock_of("w2") == 2


def test_with_nobody_live_the_first_round_is_at_the_min_clock(two):
    server, w0, w1 = two()
    server.walk(w0)
    server.walk(w1)
    server.ask(Leave(w0))
    server.ask(Leave(w1))
    assert server.ask(SetPolicy(PolicyTerms("sync"))).switching_at == 1
    server.join("w0", "another")
    assert server.machine.groups["default"].policy_state() == PolicyState("default", PolicyTerms("sync"))


def test_at_the_first_round_workers_park_until_all_are_there(two):
    server, w0, w1 = two()
    server.walk(w0)
    server.ask(SetPolicy(PolicyTerms("sync")))
    told = server.pull(w0, 1, wait_seconds=None)
    assert (told.reason, told.waiting_for) == (Reason.SWITCHING, ("w1",))
    assert server.walk(w1).disposition is Disposition.APPLIED
    assert server.pull(w0, 1).round == 1


def test_the_first_round_waits_for_what_is_being_applied(two):
    server, w0, w1 = two()
    server.walk(w0)
    server.pull(w1)
    server.ask(SetPolicy(PolicyTerms("sync")))
    server.holding = True
    server.push(w1)
    group = server.machine.groups["default"]
    assert group.switching_at == 1
    server.publish()
    assert (group.switching_at, group.rounds.members) == (None, ["w0", "w1"])


def test_a_switch_while_the_step_of_a_round_is_applied(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    server.push(w0)
    server.holding = True
    server.push(w1)
    server.ask(SetPolicy(PolicyTerms("async")))
    server.publish()
    assert server.pull(w0, 1).version == Version(1, 2)


def test_settings_that_make_no_policy(two):
    server, *_ = two()
    assert server.ask(SetPolicy(PolicyTerms("ssp"))).error.code is Code.INVALID_VALUE
    assert server.ask(SetPolicy(PolicyTerms("async"), "other")).error.code is Code.UNKNOWN_GROUP


def test_whole_weights_are_in_the_way_of_a_policy_without_rounds_as_long_as_their_worker_lives(two):
    server, w0, w1 = two("sync")
    server.pull(w0)
    server.pull(w1)
    server.push(w0, kind=UpdateKind.MODEL)
    server.push(w1, kind=UpdateKind.SKIP)
    for terms in (PolicyTerms("async"), PolicyTerms("ssp", 1)):
        error = server.ask(SetPolicy(terms)).error
        assert (error.code, "pushed, by w0;" in error.detail) == (Code.INVALID_VALUE, True)
    assert server.ask(SetPolicy(PolicyTerms("sync", quorum=1))).terms.quorum == 1
    server.ask(Leave(w0))
    assert server.ask(SetPolicy(PolicyTerms("async"))).terms.mode == "async"


# Settling.


def test_a_wait_that_runs_out_names_those_waited_for_now(serve):
    server = serve("sync", workers=3)
    server.offer()
    lives = [server.join(f"w{number}") for number in range(3)]
    for life in lives:
        server.pull(life)
    server.push(lives[0])
    waiting = server.send(Pull(life=lives[0], clock=1, wait_seconds=5))
    server.push(lives[1])
    server.tick(5.0)
    assert server.replies[waiting] == NotYet(Reason.WAITING_FOR_ROUND, "round 0 waits for w2", ("w2",))


def test_who_can_go_on_is_not_told_that_the_wait_ran_out(two):
    server, w0, _ = two("ssp", 0)
    server.walk(w0)
    server.tick(5.0)
    server.ask(Heartbeat(w0))
    waiting = server.send(Pull(life=w0, clock=1, wait_seconds=5))
    server.tick(5.0)
    assert server.replies[waiting].version == Version(1, 2)


def test_nobody_is_looked_at_when_nothing_has_changed(two, monkeypatch):
    server, w0, w1 = two("ssp", 0)
    server.walk(w0)
    server.send(Pull(life=w0, clock=1, wait_seconds=50))
    looked_at = []
    monkeypatch.setattr(server.machine.groups["default"].pulls, "judge", lambda pull, member: looked_at.append(member))
    for life in (w0, w1):
        server.ask(Heartbeat(life))
    assert looked_at == []


def test_no_round_opens_at_the_end(two):
    server, w0, w1 = two("sync", until=1)
    server.pull(w0)
    server.pull(w1)
    server.push(w0)
    server.push(w1)
    group = server.machine.groups["default"]
    assert (str(group.rounds.state), group.done) == ("waiting", True)


def test_the_run_is_not_done_while_something_is_applied(two):
    server, w0, w1 = two("async", until=1)
    server.walk(w0)
    server.pull(w1)
    server.holding = True
    assert not server.machine.groups["default"].done
    server.push(w1)
    assert not server.machine.groups["default"].done
    server.publish()
    assert server.machine.groups["default"].done
    assert server.machine.finished


def test_a_refusal_is_a_refusal(two):
    server, w0, _ = two()
    assert isinstance(server.push(w0), Refused)


@pytest.mark.parametrize(("mode", "bound"), [("async", None), ("ssp", 3)])
def test_eager_policies_begin_when_all_have_joined(serve, mode, bound):
    server = serve(mode, bound, workers=2)
    server.offer()
    first = server.join("w0")
    waiting = server.send(Pull(life=first, wait_seconds=None))
    assert server.replies[waiting] == NotYet(
        Reason.WAITING_FOR_WORKERS, "the run begins when 2 workers have joined, 1 have so far"
    )
    server.join("w1")
    assert server.pull(first).version.number == 1


# A step that fails.


def fail_next(server):
    coming = server.coming.pop(0)
    return server.step(Failed(coming.group, coming.number))


def test_an_update_on_arrival_whose_step_fails_is_skipped(two):
    server, w0, _ = two()
    server.holding = True
    server.pull(w0)
    assert server.push(w0) is None
    fail_next(server)
    assert server.replies[server.requests] == Pushed(0, Disposition.SKIPPED, Reason.STEP_FAILED)
    # The first answer may have been lost: that it failed is told again.
    assert server.push(w0, 0, version=1).reason is Reason.STEP_FAILED
    granted = server.pull(w0, 1)
    assert (granted.version.number, granted.clock, granted.step_failed) == (2, 1, False)


def test_contributors_are_told_until_their_next_push(two):
    server, w0, w1 = two("sync")
    server.pull(w0), server.pull(w1)
    server.holding = True
    server.push(w0)
    server.push(w1, kind=UpdateKind.SKIP)
    fail_next(server)
    assert [server.pull(life, 1).step_failed for life in (w0, w0, w1)] == [True, True, False]
    server.holding = False
    server.push(w0, 1), server.push(w1, 1)
    assert not server.pull(w0, 2).step_failed


def test_a_round_that_was_switched_away_from_may_fail_too(two):
    server, w0, w1 = two("sync")
    server.pull(w0), server.pull(w1)
    server.holding = True
    server.push(w0), server.push(w1)
    server.ask(SetPolicy(PolicyTerms("async")))
    fail_next(server)
    assert server.pull(w0, 1).step_failed


# What an aggregation rule asks for.


def ruled(serve, **settings):
    server = serve(
        groups=(GroupSettings(PolicyTerms("sync"), least_updates=3, needs_rounds=True),), workers=2, **settings
    )
    server.offer()
    return server, server.join("w0"), server.join("w1")


def test_a_round_with_too_few_updates_makes_no_step(serve):
    server, w0, w1 = ruled(serve)
    server.pull(w0), server.pull(w1)
    server.push(w0)
    first = server.requests
    assert server.push(w1) == Pushed(0, Disposition.HELD, Reason.IN_ROUND)
    assert server.machine.groups["default"].decided == 1
    closed = the(RoundClosed, server.effects)
    assert (closed.contributors, closed.needed) == (("w0", "w1"), 3)
    assert the(Drop, server.effects).bodies == (first, server.requests)
    assert [server.pull(life, 1).too_few for life in (w0, w0, w1)] == [True, True, True]
    # Held it was, and held it stays; the next push is about something else.
    assert server.push(w0, 0, version=1, round=0) == Pushed(0, Disposition.HELD, Reason.REPEATED)
    server.join("w2")
    server.push(w0, 1), server.push(w1, 1)
    assert server.pull(w0, 2).too_few


def test_enough_updates_are_as_many_as_it_needs(serve):
    server, w0, w1 = ruled(serve)
    w2 = server.join("w2")
    for life in (w0, w1):
        server.walk(life)
    for clock in (1, 2):
        for life in (w0, w1, w2):
            server.pull(life, clock)
        for life in (w0, w1, w2):
            server.push(life, clock)
    assert server.machine.groups["default"].decided == 3
    assert not server.pull(w0, 3).too_few


def test_a_policy_under_which_the_rule_means_nothing_is_refused(serve):
    server, _, _ = ruled(serve)
    for mode, staleness in (("async", None), ("ssp", 2)):
        told = server.ask(SetPolicy(PolicyTerms(mode, staleness)))
        assert (told.error.code, f"under {mode}" in told.error.detail) == (Code.INVALID_VALUE, True)
    assert server.ask(SetPolicy(PolicyTerms("sync"))) == PolicyState("default", PolicyTerms("sync"))


def test_whole_weights_need_a_round(two):
    server, w0, _ = two("async")
    server.pull(w0)
    told = server.push(w0, kind=UpdateKind.MODEL)
    assert (told.error.code, "push a delta" in told.error.detail) == (Code.INVALID_VALUE, True)
    assert the(Drop, server.effects).bodies == (server.requests,)
    assert server.push(w0).disposition is Disposition.APPLIED


def test_keys_that_could_not_be_stored_are_free(serve):
    server = serve()
    server.holding = True
    request = server.send(Offer((TensorSpec("w", (3,), "float32", Kind.TRAINABLE),)))
    effects = fail_next(server)
    assert server.replies[request].error.code is Code.INTERNAL
    assert the(Drop, effects).bodies == (request,)
    assert server.machine.groups["default"].specs == {}
    assert server.ask(Pull()).reason is Reason.NO_PARAMETERS


def test_an_offer_to_two_groups_is_refused_when_one_of_them_fails(serve):
    groups = (GroupSettings(PolicyTerms("async"), "a", ("a",)), GroupSettings(PolicyTerms("async"), "b", ("b",)))
    server = serve(groups=groups)
    server.holding = True
    specs = tuple(TensorSpec(name, (3,), "float32", Kind.TRAINABLE) for name in "ab")
    request = server.send(Offer(specs))
    fail_next(server)
    server.publish()
    assert server.replies[request].error.code is Code.INTERNAL
    again = server.ask(Offer(specs, ask=True))
    assert (again.kept, again.wanted) == (("b",), ("a",))


def test_an_offer_that_fails_after_its_asker_has_gone(serve):
    server = serve()
    server.holding = True
    request = server.send(Offer((TensorSpec("w", (3,), "float32", Kind.TRAINABLE),)))
    server.step(Gone(request))
    fail_next(server)
    assert request not in server.replies
