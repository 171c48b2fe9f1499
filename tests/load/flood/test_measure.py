"""A few cells of the real thing: a server process, and a crowd that pushes and pulls for a moment."""

import json
import os
import signal

import pytest

from tests.load.flood.figures import KIB, MIB
from tests.load.flood.measure import Times, _missing_memory, flood, wake

pytestmark = pytest.mark.e2e

MOMENT = Times(warm_up=0.05, window=0.3, at_most=20.0)


@pytest.mark.parametrize(("workers", "model_bytes"), [(1, 4 * KIB), (40, 4 * KIB), (6, MIB)])
def test_both_sides_have_counted_the_same(workers, model_bytes):
    cell = flood(workers, model_bytes, MOMENT)
    load = cell.load
    assert load is not None, cell.failed
    counted = load.counted
    assert counted.clients_sent_bytes == counted.server_received_bytes
    assert counted.clients_received_bytes == counted.server_sent_bytes
    # Beside the tensors there are the heads of the frames.
    assert 0 < counted.server_received_bytes - counted.updates * model_bytes < counted.updates * 1024
    assert 0 < counted.server_sent_bytes - counted.updates * model_bytes < counted.updates * 1024

    assert workers <= load.updates <= counted.updates
    # What was under way at the window's ends is counted in part.
    assert abs(load.moved_bytes - 2 * load.updates * model_bytes) < (load.updates + 3 * workers) * (model_bytes + KIB)
    assert 0 < load.p50_seconds <= load.p99_seconds <= load.longest_seconds
    assert load.seconds >= MOMENT.window
    if os.path.exists("/proc/self/statm"):
        assert load.resident_bytes > 50 * MIB
        assert load.server_cores > 0 < load.clients_cores
    json.dumps(load.counted.updates)


def test_under_sync_all_are_answered_after_the_last_contribution():
    found = wake(20, 4 * KIB, MOMENT)
    assert found.failed is None
    assert found.rounds >= 5
    assert 0 < found.first_seconds <= found.all_seconds <= found.longest_seconds


def test_a_server_that_dies_is_the_reason_why_a_cell_has_no_figures():
    cell = flood(3, 4 * KIB, MOMENT, started=lambda serving: os.kill(serving.process.pid, signal.SIGKILL))
    assert cell.load is None
    assert cell.failed == "the server died: exit code -9"


def test_a_cell_that_the_machine_has_no_room_for_is_not_begun():
    assert _missing_memory(1, 4 * KIB) is None
    assert "of memory, " in _missing_memory(2**40, MIB)
    assert "of memory, " in flood(2**40, MIB, MOMENT).failed
