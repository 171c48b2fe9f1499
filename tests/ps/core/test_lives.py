from __future__ import annotations

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.replicas import Place
from leeway.ps.core.lives import Incarnation, Seat


def replica(stages: int = 3) -> Incarnation:
    return Incarnation("r0", 2, tuple(Seat(f"s{stage}", 10.0, Place(stage, stages)) for stage in range(stages)))


def worker() -> Incarnation:
    return Incarnation("w0", 1, (Seat("s", 10.0),))


def test_a_worker_has_one_seat_and_a_replica_one_for_each_stage():
    assert (worker().is_replica, worker().stages, worker().seats[0].stage) == (False, 1, None)
    assert (replica().is_replica, replica().stages) == (True, 3)
    assert [replica().seat(stage).stage for stage in range(3)] == [0, 1, 2]
    assert worker().seat(None).session == "s"


@pytest.mark.parametrize(
    ("life", "stage", "words"),
    [
        (worker(), 0, "w0#1 is one process, and no replica that has a stage 0"),
        (replica(), None, "r0#2 is a replica of 3 stages: a request says which one asks (stage)"),
        (replica(), 3, "r0#2 has the stages 0 to 2, and no stage 3"),
    ],
)
def test_a_request_names_a_stage_that_is_there(life, stage, words):
    refused = life.seat(stage)
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.error.detail) == (Code.INVALID_VALUE, words)


def test_what_its_processes_wait_for_counts_together():
    life = replica()
    life.seats[0].unanswered, life.seats[2].unanswered = 1, 2
    assert life.unanswered == 3


@pytest.mark.parametrize(
    ("reason", "its", "of_others"),
    [
        (Reason.NEW_SESSION, Code.FENCED, Code.STAGE_REPLACED),
        (Reason.LEASE_EXPIRED, Code.EVICTED, Code.STAGE_LOST),
        (Reason.LEFT, Code.LEFT, Code.STAGE_LOST),
    ],
)
def test_the_stage_by_which_it_ended_is_told_something_else_than_the_others(reason, its, of_others):
    life = replica()
    life.ended, life.culprit = reason, 1
    assert [life.refusal(stage).error.code for stage in range(3)] == [of_others, its, of_others]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.NEW_SESSION, Code.FENCED),
        (Reason.ITERATION_TOO_LONG, Code.EVICTED),
        (Reason.GRANT_LOST, Code.STAGE_LOST),
    ],
)
def test_where_it_ended_by_no_stage_all_are_told_the_same(reason, code):
    life = replica()
    life.ended = reason
    assert {life.refusal(stage).error.code for stage in range(3)} == {code}
