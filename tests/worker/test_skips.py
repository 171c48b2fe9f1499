from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition
from leeway.protocol.reasons import Reason
from leeway.worker.session.states import Outcome
from leeway.worker.skips import RefusedInARow

REFUSED = Outcome(0, Disposition.SKIPPED, Code.NON_FINITE, tensor="w")


def told_at(outcomes):
    row = RefusedInARow()
    return [number for number, outcome in enumerate(outcomes, start=1) if row.ended(outcome)]


def test_the_first_is_told_and_then_ever_fewer():
    assert told_at([REFUSED] * 1500) == [1, 10, 100, 1000]


def test_too_large_ones_count_too():
    too_large = Outcome(0, Disposition.SKIPPED, Code.UPDATE_TOO_LARGE)
    assert told_at([too_large, REFUSED, *[too_large] * 8]) == [1, 10]


def test_an_update_that_went_in_ends_the_row():
    for disposition in (Disposition.APPLIED, Disposition.HELD, Disposition.MERGED):
        applied = Outcome(0, disposition, Reason.ON_ARRIVAL)
        assert told_at([applied, REFUSED, REFUSED, applied, REFUSED]) == [2, 5]


def test_own_skips_and_drops_neither_count_nor_end_it():
    skip, drop = Outcome(0, Disposition.SKIPPED, Reason.SKIPPED), Outcome(0, None, Code.EVICTED)
    assert told_at([skip, drop, REFUSED, skip, drop, *[REFUSED] * 9]) == [3, 14]
