from __future__ import annotations

import pytest

from leeway.protocol import limits
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.pulls import NotYet
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.replicas import Place
from leeway.ps.core.barriers import Barriers
from leeway.ps.core.effects import Answered, Parked
from leeway.ps.core.lives import Incarnation, Seat


class Meeting:
    """Three live workers and what the barriers told them; requests are numbered from 1."""

    def __init__(self) -> None:
        self.effects: list[object] = []
        self.barriers = Barriers(self.effects.append)
        self.live = [Incarnation(f"w{number}", 1, (Seat("s", 10.0),)) for number in range(3)]
        self.requests = 0

    def arrive(
        self, who: int, generation: int = 0, *, name="b", parties=1, wait=9.0, now=0.0, stage=None
    ) -> list[object]:
        """What is new since."""
        self.effects.clear()
        self.requests += 1
        asked = Barrier(Life(f"w{who}", 1, 1, stage), name, generation, parties, wait)
        self.barriers.arrive(self.requests, asked, self.live[who], self.live, now)
        return list(self.effects)

    def depart(self, who: int, culprit: int | None = None) -> list[object]:
        self.live[who].ended, self.live[who].culprit = Reason.LEASE_EXPIRED, culprit
        return self.after(self.barriers.depart, self.live[who])

    def after(self, action, *given) -> list[object]:
        self.effects.clear()
        action(*given)
        return list(self.effects)


@pytest.fixture
def meeting() -> Meeting:
    return Meeting()


def code(effect: Answered) -> Code:
    return effect.reply.error.code


def test_all_that_were_live_have_to_arrive(meeting):
    assert meeting.arrive(0) == [Parked(1, None, "w0", 1, Reason.BARRIER, "barrier b/0 waits for w1,w2")]
    meeting.arrive(2)
    assert meeting.arrive(1) == [Answered(n, Passed("b", 0)) for n in (1, 2, 3)]
    assert meeting.barriers.generations() == {"b": 1}


def test_a_joiner_is_not_waited_for_but_counts_as_a_party(meeting):
    everybody, meeting.live = meeting.live, meeting.live[:2]
    meeting.arrive(0, parties=3)
    meeting.live = everybody
    assert "waits for w1" in meeting.arrive(2)[0].detail
    assert len(meeting.arrive(1)) == 3


def test_a_passed_generation_is_passed_for_ever(meeting):
    for who in range(3):
        meeting.arrive(who)
    assert meeting.arrive(0) == [Answered(4, Passed("b", 0))]


def test_a_generation_to_come_is_refused_and_leaves_no_trace(meeting):
    (answer,) = meeting.arrive(0, 1)
    assert code(answer) is Code.INVALID_VALUE
    assert answer.reply.error.facts == {"generation": 0}
    assert meeting.barriers.generations() == {}


def test_without_a_wait_the_arrival_counts_all_the_same(meeting):
    assert meeting.arrive(0, wait=None) == [
        Answered(1, NotYet(Reason.BARRIER, "barrier b/0 waits for w1,w2", ("w1", "w2")))
    ]
    meeting.arrive(1, wait=None)
    assert meeting.arrive(2, wait=None) == [Answered(3, Passed("b", 0))]


def test_fewer_than_the_parties_do_not_pass(meeting):
    meeting.live = meeting.live[:1]
    assert meeting.arrive(0, parties=2)[0].detail == "barrier b/0 waits for 1 more of 2"


def test_a_new_generation_asks_for_its_own_parties(meeting):
    meeting.live = meeting.live[:1]
    meeting.arrive(0, parties=2)
    meeting.depart(0)
    assert meeting.arrive(0) == [Answered(2, Passed("b", 0))]


def test_nobody_waits_for_the_dead_and_the_dead_are_told_so(meeting):
    meeting.arrive(0)
    meeting.arrive(0, name="other")
    meeting.arrive(1)
    assert meeting.depart(2) == [Answered(1, Passed("b", 0)), Answered(3, Passed("b", 0))]
    (told,) = meeting.depart(0)
    assert (told.request, code(told)) == (2, Code.EVICTED)


def test_a_replica_has_arrived_when_all_its_stages_have(meeting):
    seats = tuple(Seat(f"s{stage}", 10.0, Place(stage, 2)) for stage in range(2))
    meeting.live[1:] = [Incarnation("w1", 1, seats)]
    meeting.arrive(0)
    (parked,) = meeting.arrive(1, stage=0)
    assert (parked.detail, parked.stage) == ("barrier b/0 waits for w1", 0)
    assert meeting.arrive(1, stage=0)[0].detail == "barrier b/0 waits for w1"
    assert [effect.request for effect in meeting.arrive(1, stage=1)] == [1, 2, 3, 4]


def test_a_stage_at_a_barrier_is_told_how_its_replica_ended(meeting):
    seats = tuple(Seat(f"s{stage}", 10.0, Place(stage, 2)) for stage in range(2))
    meeting.live[1:] = [Incarnation("w1", 1, seats)]
    meeting.arrive(1, stage=0)
    (told,) = meeting.depart(1, culprit=1)
    assert code(told) is Code.STAGE_LOST


def test_a_wait_runs_out(meeting):
    meeting.arrive(0, wait=5.0)
    meeting.arrive(1, wait=6.0)
    assert meeting.after(meeting.barriers.expire, 4.9) == []
    assert meeting.after(meeting.barriers.expire, 5.0) == [
        Answered(1, NotYet(Reason.BARRIER, "barrier b/0 waits for w2", ("w2",)))
    ]


def test_who_is_gone_has_arrived(meeting):
    meeting.arrive(0)
    meeting.barriers.gone(1)
    meeting.arrive(1)
    assert meeting.arrive(2) == [Answered(2, Passed("b", 0)), Answered(3, Passed("b", 0))]


def test_at_the_stop_everybody_is_told(meeting):
    meeting.arrive(0)
    meeting.arrive(1, name="other")
    told = refuse(Code.STOPPING, "stop")
    assert meeting.after(meeting.barriers.stop, told) == [Answered(1, told), Answered(2, told)]
    assert meeting.after(meeting.barriers.stop, told) == []


def test_the_number_of_barriers_is_bounded(meeting, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BARRIERS", 1)
    meeting.arrive(0)
    assert code(meeting.arrive(0, name="other")[0]) is Code.BUSY
    assert isinstance(meeting.arrive(1)[0], Parked)


def test_generations_go_on_after_a_restart(meeting):
    meeting.barriers.restore({"b": 4})
    assert meeting.arrive(0, 3) == [Answered(1, Passed("b", 3))]
    assert "b/4 waits for w1,w2" in meeting.arrive(0, 4)[0].detail
