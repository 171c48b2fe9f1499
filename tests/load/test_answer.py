"""The answer in words, from figures that nobody measured: what is claimed, and above all what is not."""

import pytest

from tests.load.answer import in_short, on_pace, overview, passages
from tests.load.comparison import compare
from tests.load.made_up import CONSTANT, MOVING, NONE, SCENARIO, result, results

EQUAL = results(NONE, ddp=(1.0, 1.1, 1.2), sync=(1.1, 1.2, 1.3), ssp3=(1.0, 1.1, 1.4), **{"async": (1.2, 1.1, 1.3)})


def told(made, heading):
    """The sentences below a heading, as one text."""
    found = [one for one in passages(compare(SCENARIO, made)) if one.heading == heading]
    assert len(found) == 1
    return " ".join(found[0].sentences)


def short(made):
    return in_short(compare(SCENARIO, made))


def test_equal_machines_without_a_difference():
    said = told(EQUAL, NONE.title)
    assert said.startswith("DDP reached 90% in 1.1 s (1 to 1.2).")
    assert "No difference from DDP that is larger than the spread: sync (" in said
    assert "Faster" not in said
    assert "Slower" not in said
    assert short(EQUAL) == ["Equal machines: Made up: no difference beyond the spread."]
    assert told(EQUAL, "Where SSP wins") == "It gains nothing that is larger than the spread under: equal machines."


def test_what_a_mode_costs_on_equal_machines():
    made = results(NONE, ddp=(1.0, 1.1, 1.2), sync=(2.0, 2.2, 2.4))
    assert "Slower than DDP beyond the spread: sync (2.2 s (2 to 2.4), 2.00 times as long)." in told(made, NONE.title)
    assert short(made) == ["Equal machines: Made up: DDP is the fastest."]


def test_ssp_wins_under_a_straggler_that_moves():
    made = EQUAL + results(
        MOVING, ddp=(4.0, 4.2, 4.4), sync=(4.0, 4.1, 4.5), ssp1=(3.9, 4.1, 4.2), ssp3=(2.0, 2.1, 2.3)
    )
    said = told(made, MOVING.title)
    assert "DDP reached 90% in 4.2 s (4 to 4.4), 3.8 times what it needs on equal machines." in said
    assert "Faster than DDP beyond the spread: ssp(3) (2.1 s (2 to 2.3), 50% less)." in said
    assert "No difference from DDP that is larger than the spread: sync (4.1 s (4 to 4.5)) and ssp(1) (4.1 s" in said
    on_ssp = told(made, "Where SSP wins")
    assert f"A bound beats both sync and DDP beyond the spread under: {MOVING.title} (ssp(3))." in on_ssp
    assert short(made)[-1] == f"A{MOVING.title[1:]}: Made up: ssp(3), in 0.50 of DDP's time."


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ((1.0, 1.1, 1.2), "async is faster still"),
        ((2.0, 2.1, 2.2), "it cannot be told from async"),
        ((3.0, 3.1, 3.2), "ssp(3) is faster than async, too"),
    ],
)
def test_where_ssp_wins_async_is_named_too(free, said):
    made = results(MOVING, ddp=(4.0, 4.2), sync=(4.0, 4.1), ssp3=(2.0, 2.1), **{"async": free})
    assert f"Under {MOVING.title} {said}." in told(made, "Where SSP wins")


def test_ssp_loses():
    made = results(CONSTANT, ddp=(4.0, 4.2, 4.4), sync=(4.0, 4.1, 4.5), ssp1=(5.0, 5.1, 5.2), ssp3=(6.0, 6.1, 6.3))
    said = told(made, "Where SSP wins")
    assert said == f"Every bound is slower than sync or DDP under: {CONSTANT.title}."
    assert "beats" not in said


def test_a_tie_within_the_spread_is_no_win():
    # Two of three seeds are far better, and the third is as the others.
    made = results(MOVING, ddp=(4.0, 4.2, 4.4), sync=(4.0, 4.1, 4.5), ssp3=(1.0, 1.1, 4.0))
    assert told(made, "Where SSP wins") == f"It gains nothing that is larger than the spread under: {MOVING.title}."
    assert "Faster" not in told(made, MOVING.title)


def test_a_difference_that_snapshots_cannot_show_is_none():
    made = results(MOVING, ddp=(4.0, 4.0, 4.0), sync=(3.95, 3.95, 3.95))
    assert SCENARIO.snapshot_seconds > 0.05
    assert "No difference from DDP" in told(made, MOVING.title)


def test_one_seed_has_no_spread_and_claims_nothing():
    made = results(MOVING, ddp=(4.0,), sync=(4.0,), ssp3=(1.0,))
    assert "one seed has no spread" in short(made)[0]
    assert "Faster" not in told(made, MOVING.title)
    assert "beats" not in told(made, "Where SSP wins")


def test_ssp_settles_at_the_pace_of_a_rank_that_is_always_slow():
    paces = {"sync": (20.0, 20.0), "async": (60.0, 20.0), "ssp(3)": (20.5, 20.0), "ddp": (20.0, 20.0)}
    made = [result(system, CONSTANT, seed, 4.0 + seed, paces=own) for system, own in paces.items() for seed in range(3)]
    said = told(made, CONSTANT.title)
    assert "all ranks went at the slow rank's pace under ssp(3)" in said
    assert "The fastest rank made more iterations than the slow one under async (3.0 times)." in said


def test_nothing_is_said_of_the_pace_where_nobody_is_always_slow():
    assert "pace" not in told(EQUAL, NONE.title)


def test_a_target_that_nobody_reaches_is_told_with_the_best():
    made = results(NONE, ddp=(None, None, None), sync=(None, None, None))
    said = told(made, NONE.title)
    assert said.startswith("DDP did not reach 90%; its best was 85.0%.")
    assert "Did not reach it in the time of the run: sync (best 85.0%)." in said
    assert short(made) == ["Equal machines: Made up: nobody reached 90%."]


def test_one_that_never_gets_there_is_slower_than_one_that_does():
    made = results(NONE, ddp=(1.0, 1.1, 1.2), sync=(None, None, None), ssp3=(None, 9.0, None))
    said = told(made, NONE.title)
    assert "sync (best 85.0%) and ssp(3) (best 91.0%, one seed in 9 s)." in said
    assert short(made) == ["Equal machines: Made up: DDP is the fastest."]


def test_faster_than_a_baseline_that_never_gets_there():
    made = results(CONSTANT, ddp=(None, None, None), sync=(None, None, None), ssp3=(5.0, 5.1, 5.2))
    assert "Faster than DDP beyond the spread: ssp(3) (5.1 s (5 to 5.2))." in told(made, CONSTANT.title)
    assert short(made)[0].endswith("Made up: ssp(3), where DDP never got there.")


def test_without_ddp_sync_is_what_others_are_compared_with():
    made = results(MOVING, sync=(4.0, 4.1, 4.5), ssp3=(2.0, 2.1, 2.3))
    assert told(made, MOVING.title).startswith("sync reached 90% in 4.1 s")
    assert "A bound beats sync beyond the spread" in told(made, "Where SSP wins")


def test_waiting_is_told_of_all():
    assert "Share of time spent waiting: sync 20%, async 20%, ssp(3) 20%, DDP 20%." in told(EQUAL, NONE.title)


def test_what_was_not_run_is_not_spoken_of():
    assert passages(compare(SCENARIO, [])) == []
    assert in_short([]) == []


def test_where_ssp_settles_is_told_of_all_scenarios():
    paces = {"async": (60.0, 20.0), "ssp(1)": (20.5, 20.0), "ssp(3)": (40.0, 20.0)}
    made = [result(system, CONSTANT, seed, 4.0, paces=own) for system, own in paces.items() for seed in range(3)]
    assert on_pace(compare(SCENARIO, made)) == (
        "SSP settled at the pace of the rank that was always slow, as it must: Made up: ssp(1)."
    )
    assert on_pace(compare(SCENARIO, EQUAL)) is None


def test_what_a_bound_gains_on_equal_machines_is_no_waiting():
    made = results(NONE, ddp=(2.0, 2.1), sync=(2.0, 2.1), ssp3=(1.0, 1.1))
    assert "it is not waiting that is saved, sync waits for 20% of its time" in told(made, "Where SSP wins")
    assert "not waiting" not in told(EQUAL, "Where SSP wins")


def test_the_overview_marks_what_differs():
    made = results(MOVING, ddp=(4.0, 4.2), sync=(4.1, 4.3), ssp1=(None, None), ssp3=(2.0, 2.2), **{"async": (8.0, 8.4)})
    systems, ((name, cells),) = overview(compare(SCENARIO, made))
    found = dict(zip(systems, [(cell.text, cell.kind) for cell in cells], strict=True))
    assert name == f"Made up: {MOVING.title}"
    assert found == {
        "sync": ("4.2 s · 1.02×", "alike"),
        "async": ("8.2 s · 2.00×", "worse"),
        "ssp(1)": ("never", "never"),
        "ssp(3)": ("2.1 s · 0.51×", "better"),
        "DDP": ("4.1 s", "base"),
    }
