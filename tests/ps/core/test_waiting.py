from __future__ import annotations

import pytest

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.pulls import NotYet, Pull
from leeway.protocol.pushes import Disposition, Pushed, PushPulled
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.ps.core.decisions import Park
from leeway.ps.core.effects import Answered, Parked
from leeway.ps.core.lives import Incarnation, Seat
from leeway.ps.core.waiting import Waiting, WaitingRoom

WHY = Park(Reason.LAG, "too far ahead", ("w1",))
TOLD = NotYet(Reason.LAG, "still")
PUSHED = Pushed(3, Disposition.APPLIED, Reason.ON_ARRIVAL, 5, 0)
W0 = Incarnation("w0", 1, (Seat("s", 10.0),))


@pytest.fixture
def effects() -> list[object]:
    return []


@pytest.fixture
def room(effects) -> WaitingRoom:
    return WaitingRoom("default", effects.append)


def of(request: int, member: Incarnation | None = None, until: float = 9.0, pushed: Pushed | None = None) -> Waiting:
    life = Life(member.rank, 1, member.number) if member else None
    return Waiting(request, Pull(life=life), member, until, pushed)


def test_a_worker_and_a_reader_wait(room, effects):
    waiting = of(1, W0)
    room.park(waiting, WHY)
    room.park(of(2), WHY)
    assert effects == [
        Parked(1, "default", "w0", 1, Reason.LAG, "too far ahead", ("w1",)),
        Parked(2, "default", None, 0, Reason.LAG, "too far ahead", ("w1",)),
    ]
    assert [one.request for one in room] == [1, 2]
    assert len(room) == 2
    assert room.of(W0) is waiting


def test_a_life_waits_with_one_pull(room):
    room.park(of(1, W0), WHY)
    with pytest.raises(AssertionError):
        room.park(of(2, W0), WHY)


def test_an_answered_one_waits_no_more(room, effects):
    room.park(of(1, W0), WHY)
    room.answer(room.of(W0), TOLD)
    assert effects[-1] == Answered(1, TOLD)
    assert (len(room), room.of(W0)) == (0, None)


def test_the_pushs_result_comes_with_the_answer(room, effects):
    room.park(of(1, W0, pushed=PUSHED), WHY)
    room.release(W0, lambda stage: TOLD)
    assert effects[-1] == Answered(1, PushPulled(PUSHED, TOLD))


def test_who_does_not_wait_is_not_released(room, effects):
    room.release(W0, lambda stage: TOLD)
    assert effects == []


def test_who_is_gone_is_not_answered(room, effects):
    room.park(of(1, W0), WHY)
    room.park(of(2), WHY)
    for request in (1, 2, 3):
        room.gone(request)
    assert (len(room), room.of(W0), len(effects)) == (0, None, 2)


def test_waits_run_out(room):
    room.park(of(1, W0, until=5.0), WHY)
    room.park(of(2, until=6.0), WHY)
    assert [one.request for one in room.expired(5.9)] == [1]


def test_at_the_stop_all_are_told_and_nobody_waits_any_more(room, effects):
    room.park(of(1, W0), WHY)
    told = refuse(Code.STOPPING, "stop")
    room.stop(told)
    room.park(of(2, W0, pushed=PUSHED), WHY)
    assert effects[1:] == [Answered(1, told), Answered(2, PushPulled(PUSHED, told))]
    assert len(room) == 0


def test_the_number_of_readers_is_bounded_workers_do_not_count(room, effects, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PARKED_READERS", 1)
    room.park(of(1, W0), WHY)
    room.park(of(2), WHY)
    room.park(of(3), WHY)
    assert effects[-1].request == 3
    assert effects[-1].reply.error.code is Code.BUSY
    room.park(of(4, Incarnation("w1", 1, "s", 10.0)), WHY)
    assert len(room) == 3
