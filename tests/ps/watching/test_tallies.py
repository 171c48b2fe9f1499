"""What has happened in a group, in a handful of numbers."""

import json
import math

import pytest

from leeway.ps.watching.tallies import Tally


def test_staleness_is_counted_at_or_below_its_bound():
    tally = Tally()
    tally.stepped([0, 0, 1, 4, 5, 6, 55, 56, 10_000], None)
    told = tally.to_fields()["staleness"]
    assert dict(zip([*told["bounds"], "above"], told["counts"], strict=True)) == {
        0: 2, 1: 1, 2: 0, 3: 0, 5: 2, 8: 1, 13: 0, 21: 0, 34: 0, 55: 1, "above": 2
    }  # fmt: skip


def test_the_norm_is_the_newest_that_was_measured():
    tally = Tally()
    assert tally.to_fields()["gradient_norm"] is None
    tally.stepped([0], 2.5)
    tally.stepped([0], None)
    assert tally.to_fields()["gradient_norm"] == 2.5


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_what_json_does_not_have_is_null(norm):
    tally = Tally(gradient_norm=norm)
    assert json.loads(json.dumps(tally.to_fields(), allow_nan=False))["gradient_norm"] is None


def test_what_is_told_stays_as_it_was():
    tally = Tally()
    told = tally.to_fields()
    tally.stepped([0], None)
    assert sum(told["staleness"]["counts"]) == 0
