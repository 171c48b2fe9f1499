"""Schedules of replicas against those of workers in their place, and so against the oracle; see `split.py`."""

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.schedule import Move
from tests.properties.split import STAGES, Split
from tests.properties.test_policies import ASYNC, QUORUMS, SYNC, schedules, some, ssp

# Of replicas an iteration takes as many moves as there are stages, twice.
MOVES = {"go": 40, "skip": 2, "replace": 2, "leave": 1, "publish": 3, "wait": 3, "due": 2, "pause": 1, "read": 1}
DISORDER = {"fail": 2, "restart": 1}

runs = st.fixed_dictionaries(
    {
        "workers": st.integers(1, 3),
        "until": st.none() | st.integers(2, 6),
        "delayed": st.booleans(),
        "least": st.just(1),
    }
)


def play(policy, run, moves):
    split = Split(policy, **run)
    everybody = [Move("go", who, stage) for who in range(3) for stage in range(STAGES.get(f"w{who}", 1))]
    split.play([*everybody, Move("offer"), Move("publish"), *moves])
    split.stop()


@some(150)
@given(
    policy=st.sampled_from([SYNC, ASYNC, ssp(0), ssp(1), ssp(3)]),
    run=runs,
    moves=schedules(MOVES | DISORDER, longest=130),
)
def test_replicas_are_as_workers_in_their_place(policy, run, moves):
    play(policy, run, moves)


@some(120)
@given(policy=st.sampled_from(QUORUMS), run=runs, moves=schedules(MOVES | DISORDER, longest=130))
def test_in_a_quorum(policy, run, moves):
    play(policy, run, moves)


@some(120)
@given(
    policy=st.sampled_from([SYNC, ASYNC, ssp(1), *QUORUMS]),
    run=runs,
    moves=schedules(MOVES | DISORDER | {"policy": 3, "quorum": 2}, longest=150),
)
def test_while_the_policy_is_switched(policy, run, moves):
    play(policy, run, moves)


@some(40)
@given(run=runs, moves=schedules(MOVES | DISORDER, longest=130))
def test_with_a_rule_that_needs_two_updates(run, moves):
    play(SYNC, run | {"least": 2}, moves)
