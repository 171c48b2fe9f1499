"""Each policy against the oracle, over generated schedules. A failure prints the shortest schedule that fails."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.properties.schedule import Both, Move

RANKS = 3
SYNC, ASYNC = ("sync", None, None, None), ("async", None, None, None)
# Of three workers: none, one or two are waited out, for no time, for some, or as the pace advises.
QUORUMS = [("sync", None, quorum, grace) for quorum in (1, 2) for grace in (0.0, 2.5, None)]


def ssp(bound):
    return ("ssp", bound, None, None)


def some(count):
    """So many examples, the same ones every time."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )


def schedules(verbs, *, longest=70):
    """Lists of moves; `verbs` says how often each is chosen. They shrink towards `rest`, which is nothing."""
    chosen = st.sampled_from(["rest", *(verb for verb, times in verbs.items() for _ in range(times))])
    moves = st.builds(Move, chosen, st.integers(0, RANKS - 1), st.integers(0, 7))
    chosen_moves = st.lists(moves, min_size=longest // 3, max_size=longest)
    return chosen_moves.map(lambda moves: [move for move in moves if move.verb != "rest"])


TRAINING = {
    "step": 8,
    "pull": 5,
    "push": 6,
    "part": 4,
    "skip": 2,
    "publish": 3,
    "wait": 3,
    "pause": 1,
    "offer": 1,
    "declare": 1,
    "read": 1,
}
COMING_AND_GOING = {"join": 2, "rejoin": 2, "leave": 1, "heartbeat": 3}
DISORDER = {"again": 4, "push_again": 3, "old_join": 1, "wrong": 2, "gone": 2, "restart": 1, "fail": 2}
# Deadlines pass, workers are moved on and ask as before, and there is a quorum or none.
IN_A_QUORUM = {"due": 4, "old_pull": 1, "quorum": 1, "step": 5, "pull": 3}
# Long enough for a median, and for one that has moved on.
UNDER_LIMITS = {"step": 40, "part": 6, "skip": 1, "publish": 6, "join": 2, "rejoin": 1, "leave": 1, "wait": 1}
UNDER_LIMITS |= {"push_again": 2, "quarantine": 1, "release": 2, "restart": 1, "policy": 1}
ALL = TRAINING | COMING_AND_GOING | DISORDER

runs = st.fixed_dictionaries(
    {
        "workers": st.integers(1, 3),
        "until": st.none() | st.integers(1, 6),
        "longest": st.none() | st.just(15.75),
        "delayed": st.booleans(),
    }
)


def play(policy, run, moves, *, offered=True, joined=RANKS, whole=False):
    both = Both(policy, **run)
    both.play([Move("join", who) for who in range(joined)])
    if offered:
        both.play([Move("declare" if whole else "offer"), Move("publish")])
    both.play(moves)
    both.stop()


@some(100)
@given(run=runs, moves=schedules(ALL))
def test_sync(run, moves):
    play(SYNC, run, moves)


@some(90)
@given(run=runs, least=st.sampled_from([2, 3]), moves=schedules(ALL | {"policy": 1, "quorum": 1}))
def test_sync_with_a_rule_that_needs_so_many_updates(run, least, moves):
    play(SYNC, run | {"least": least}, moves)


@some(220)
@given(policy=st.sampled_from(QUORUMS), run=runs, moves=schedules(ALL | IN_A_QUORUM))
def test_quorum(policy, run, moves):
    play(policy, run, moves)


@some(90)
@given(run=runs, moves=schedules(ALL))
def test_async(run, moves):
    play(ASYNC, run, moves)


@pytest.mark.parametrize("bound", range(6))
@some(30)
@given(run=runs, moves=schedules(ALL))
def test_ssp(bound, run, moves):
    play(ssp(bound), run, moves)


@some(260)
@given(
    policy=st.sampled_from([SYNC, ASYNC, ssp(0), ssp(2), *QUORUMS]),
    run=runs,
    moves=schedules(ALL | IN_A_QUORUM | {"policy": 6, "quorum": 3}, longest=90),
    offered=st.booleans(),
)
def test_switching(policy, run, moves, offered):
    play(policy, run, moves, offered=offered)


@some(200)
@given(
    policy=st.sampled_from([ASYNC, ssp(2)]),
    run=runs,
    moves=schedules(ALL | IN_A_QUORUM | {"quorum": 5, "policy": 1}, longest=60),
)
def test_switching_to_a_quorum(policy, run, moves):
    play(policy, run, moves)


@some(160)
@given(
    policy=st.sampled_from([SYNC, ASYNC, ssp(0), ssp(2), *QUORUMS]),
    run=runs,
    moves=schedules(TRAINING | COMING_AND_GOING | {"policy": 1, "restart": 1, "join": 4}, longest=40),
    joined=st.integers(0, RANKS - 1),
)
def test_beginning_together(policy, run, moves, joined):
    play(policy, run, moves, joined=joined)


@some(90)
@given(
    run=runs,
    moves=schedules({"offer": 4, "declare": 6, "step": 2, "publish": 3, "restart": 1, "again": 2}),
    offered=st.booleans(),
    whole=st.booleans(),
)
def test_keys(run, moves, offered, whole):
    play(ASYNC, run, moves, offered=offered, whole=whole)


@some(200)
@given(
    policy=st.sampled_from([SYNC, ASYNC, ASYNC, ssp(9), QUORUMS[0]]),
    run=runs.map(lambda run: run | {"until": None}),
    limits=st.fixed_dictionaries(
        {"most": st.none() | st.just(6.0), "ratio": st.none() | st.just(3.0), "after": st.integers(1, 3)}
    ),
    moves=schedules(UNDER_LIMITS, longest=150),
)
def test_bad_workers(policy, run, limits, moves):
    play(policy, run | limits, moves)


@some(90)
@given(moves=schedules(COMING_AND_GOING | {"barrier": 10, "wait": 3, "pause": 1, "gone": 1, "again": 2, "restart": 1}))
def test_barriers(moves):
    play(ASYNC, {}, moves)
