from __future__ import annotations

from dataclasses import replace

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.pushes import Disposition, Push, Pushed, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.ps.core.deduplication import Fresh, Repeat, StagedAgain, judge
from leeway.ps.core.lives import Incarnation, Seat
from leeway.ps.core.progress import REMEMBERED_GRANTS, Part, Progress, Record

PUSH = Push(Life("w0", 1, 1), 5, 7, UpdateKind.GRADIENT, 4)
PART = replace(PUSH, parts=3, keys=("a", "b"))


@pytest.fixture
def member() -> Incarnation:
    """At clock 5, granted version 7; its push of iteration 4 was applied."""
    progress = Progress(5, record=Record(4, 1, Reason.ON_ARRIVAL, Disposition.APPLIED, 6, 0))
    progress.grants.append((7, None))
    return Incarnation("w0", 1, (Seat("s", 10.0),), {"default": progress})


def progress_of(member: Incarnation) -> Progress:
    return member.groups["default"]


def refused(member: Incarnation, push: Push) -> tuple[Code, object]:
    verdict = judge(member, push)
    assert isinstance(verdict, Refused)
    return verdict.error.code, verdict.error.facts.get("clock")


def test_in_its_place_and_granted(member):
    assert judge(member, PUSH) == Fresh(member, progress_of(member))


def test_the_last_push_again(member):
    assert judge(member, replace(PUSH, clock=4)) == Repeat(member, progress_of(member).record)


def test_the_last_push_again_after_the_end(member):
    member.ended = Reason.LEASE_EXPIRED
    assert isinstance(judge(member, replace(PUSH, clock=4)), Repeat)
    assert refused(member, replace(PUSH, clock=3)) == (Code.SUPERSEDED, 5)
    assert refused(member, PUSH)[0] is Code.EVICTED


def test_an_older_push_is_superseded(member):
    assert refused(member, replace(PUSH, clock=3)) == (Code.SUPERSEDED, 5)
    progress_of(member).record = None
    assert refused(member, replace(PUSH, clock=4)) == (Code.SUPERSEDED, 5)


def test_the_last_push_in_another_cut_is_superseded(member):
    assert refused(member, replace(PUSH, clock=4, parts=2)) == (Code.SUPERSEDED, 5)
    # While it is being applied the clock still stands at it.
    progress_of(member).record = Record(5, 1, Reason.ON_ARRIVAL)
    assert refused(member, replace(PUSH, parts=2)) == (Code.SUPERSEDED, 5)
    assert isinstance(judge(member, PUSH), Repeat)


def test_an_iteration_to_come(member):
    assert refused(member, replace(PUSH, clock=6)) == (Code.WRONG_CLOCK, 5)


def test_without_a_grant(member):
    progress_of(member).grants.clear()
    assert refused(member, PUSH) == (Code.NOT_GRANTED, 5)


@pytest.mark.parametrize("change", [{"version": 6}, {"round": 5}])
def test_granted_with_something_else(member, change):
    assert refused(member, replace(PUSH, **change)) == (Code.NOT_GRANTED, 5)


def test_the_refusal_says_what_was_granted(member):
    progress_of(member).grants.append((9, 5))
    verdict = judge(member, replace(PUSH, version=8))
    assert verdict.error.detail == ("iteration 5 of w0#1 was granted with version 9 in round 5, not version 8")


def test_each_of_several_answers_may_be_pushed_from_and_their_number_is_bounded(member):
    progress_of(member).grants.append((8, None))
    assert isinstance(judge(member, PUSH), Fresh)
    for version in range(9, 9 + REMEMBERED_GRANTS):
        progress_of(member).grants.append((version, None))
    assert refused(member, PUSH)[0] is Code.NOT_GRANTED


def test_of_a_group_it_has_not_joined(member):
    verdict = judge(member, replace(PUSH, group="other"))
    assert verdict.error.code is Code.UNKNOWN_GROUP
    assert verdict.error.detail == "w0#1 has not joined group 'other', only default"


def test_parts_that_fit_are_fresh_and_a_part_again_is_not(member):
    progress = progress_of(member)
    assert isinstance(judge(member, PART), Fresh)
    progress.staged[0] = Part(1, PART)
    assert judge(member, PART) == StagedAgain(member, progress)
    assert isinstance(judge(member, replace(PART, part=2, keys=("c",))), Fresh)
    assert progress.missing(3) == (1, 2)


@pytest.mark.parametrize(
    "change", [{"parts": 2}, {"version": 8}, {"round": 1}, {"kind": UpdateKind.DELTA}, {"samples": 5}]
)
def test_parts_agree(member, change):
    progress = progress_of(member)
    progress.grants += [(8, None), (7, 1)]
    progress.staged[0] = Part(1, PART)
    verdict = judge(member, replace(PART, part=1, keys=("c",), **change))
    assert verdict.error.code is Code.INCONSISTENT_PARTS
    assert "part 2 of" in verdict.error.detail


def test_parts_share_no_key(member):
    progress_of(member).staged |= {0: Part(1, PART), 2: Part(2, replace(PART, part=2, keys=("c",)))}
    verdict = judge(member, replace(PART, part=1, keys=("d", "c")))
    assert verdict.error.code is Code.INCONSISTENT_PARTS
    assert verdict.error.detail == "parts 3 and 2 both carry tensor 'c'"


def test_a_skip_gives_up_the_iteration_staged_parts_and_all(member):
    progress_of(member).staged[0] = Part(1, PART)
    assert isinstance(judge(member, Push(PUSH.life, 5, 7, UpdateKind.SKIP)), Fresh)


def test_an_advance_takes_the_grants_back():
    progress = Progress(5)
    progress.grants.append((7, None))
    progress.go_on(progress.clock + 1)
    assert (progress.clock, list(progress.grants)) == (6, [])


def test_a_record_is_told_the_same_each_time():
    record = Record(4, 1, Reason.ON_ARRIVAL, Disposition.APPLIED, 6, 0)
    assert record.to_reply() == Pushed(4, Disposition.APPLIED, Reason.ON_ARRIVAL, 6, 0)
    assert record.to_reply(Reason.REPEATED) == Pushed(4, Disposition.APPLIED, Reason.REPEATED, 6, 0)
    with pytest.raises(AssertionError):
        Record(4, 1, Reason.ON_ARRIVAL).to_reply()
