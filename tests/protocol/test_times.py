from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER, Fields
from leeway.protocol.times import StepTimes

TIMES = StepTimes(4, 0.5, 0.01, 0.2, 0.03, 0.25)
seconds = st.floats(0, limits.MAX_STEP_SECONDS)


@given(st.builds(StepTimes, st.integers(0, MAX_INTEGER), *[seconds] * 5))
def test_there_and_back(times):
    assert StepTimes.read(Fields(times.to_fields(), "times")) == times


@pytest.mark.parametrize("part", ["compute", "push", "wait", "pull", "bubble"])
@pytest.mark.parametrize(
    "value", [-1e-9, math.nan, math.inf, limits.MAX_STEP_SECONDS * 1.01, 10**400, True, "x", [], {}]
)
def test_a_part_is_finite_and_bounded(part, value):
    with pytest.raises(MalformedRequest, match=f"times: '{part}' is .* it must be a number from 0.0 to"):
        StepTimes.read(Fields(TIMES.to_fields() | {part: value}, "times"))


@pytest.mark.parametrize("name", ["clock", "compute", "push", "wait", "pull"])
def test_nothing_may_be_missing(name):
    fields = TIMES.to_fields()
    del fields[name]
    with pytest.raises(MalformedRequest, match=f"times: '{name}' is missing"):
        StepTimes.read(Fields(fields, "times"))


def test_a_worker_that_is_no_stage_sends_no_bubble():
    times = StepTimes(4, 0.5, 0.01, 0.2, 0.03)
    assert "bubble" not in times.to_fields()
    assert StepTimes.read(Fields(times.to_fields(), "times")) == times


def test_an_iteration_is_all_of_its_parts():
    assert TIMES.total_seconds == pytest.approx(0.99)


def test_what_is_not_known_is_left_for_later_versions():
    assert StepTimes.read(Fields(TIMES.to_fields() | {"io": 0.1}, "times")) == TIMES
