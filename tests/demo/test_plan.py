from __future__ import annotations

import pytest

from leeway.worker.train.config import WorkerConfig
from tests.demo.plan import ARRIVAL_LEARNING_RATE, MODES, RANKS, SYNC_LEARNING_RATE, WORKERS, Plan


def test_the_demo_knows_who_naps_as_the_workers_do():
    plan = Plan(nap_seconds=0.3, turn=4)
    config = WorkerConfig(task="digits", server="http://x", rank="w0", slow_seconds=0.3, slow_turns=4)
    for clock in range(40):
        for index in range(WORKERS):
            assert plan.naps(clock, index, WORKERS) == (config.sleep_seconds(clock, index, WORKERS) > 0)


def test_a_step_on_arrival_is_as_long_as_its_share_of_a_step_of_all():
    assert ARRIVAL_LEARNING_RATE * len(RANKS) == pytest.approx(SYNC_LEARNING_RATE)


def test_only_some_modes_can_be_asked_for():
    assert [mode.name for mode in Plan().only("async", "sync").modes] == ["sync", "async"]
    with pytest.raises(ValueError, match="no mode 'bsp'; the modes are sync, ssp, async"):
        Plan().only("bsp")


def test_the_flags_name_the_bound_for_ssp_alone():
    flags = {mode.name: mode.flags for mode in MODES}
    assert flags["ssp"] == ["--mode", "ssp", "--staleness", "3", "--lr", "0.075"]
    assert flags["sync"] == ["--mode", "sync", "--lr", "0.3"]


def test_the_plan_says_what_was_chosen():
    said = str(Plan())
    for part in ("160 iterations", "batches of 64", "0.1 s in each of its iterations 0 to 3", "0.3 under", "0.075"):
        assert part in said
