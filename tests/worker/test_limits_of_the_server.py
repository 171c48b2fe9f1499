"""A worker whose server limits what it takes: too large updates, quarantine, quotas; against `ps-serve` itself."""

import time

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

import leeway
from leeway.protocol.codes import Code
from tests.worker.test_against_server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]

FLAGS = ("--mode", "async", "--lr", "0.001")


def step(session, net, size):
    """A gradient of this norm."""
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    net.weight.grad[0, 0] = size
    return session.step(samples=1)


def test_too_large_updates_become_skips_until_the_rank_is_kept_out():
    net = nn.Linear(3, 2)
    with serving(*FLAGS, "--max-update-norm", "10") as (_, url), leeway.connect(url, "w0") as session:
        session.attach(net)
        assert step(session, net, 9.0).disposition == "applied"
        with capture_logs() as logs:
            for _ in range(2):
                outcome = step(session, net, 11.0)
                assert (outcome.disposition, outcome.reason) == ("skipped", Code.UPDATE_TOO_LARGE)
        assert [line["event"] for line in logs] == ["updates are refused: they are larger than the server takes"]
        with pytest.raises(leeway.WireError, match="w0 is in quarantine: 3 updates in a row were refused") as raised:
            step(session, net, 11.0)
        assert raised.value.code is Code.QUARANTINED
        with pytest.raises(leeway.WireError, match="w0 is in quarantine"):
            leeway.connect(url, "w0").attach(nn.Linear(3, 2))


def test_whoever_asks_for_too_much_waits_and_loses_nothing():
    net = nn.Linear(3, 2)
    flags = (*FLAGS, "--max-requests-per-second", "2", "--lease", "1")
    with serving(*flags) as (_, url), leeway.connect(url, "w0", patience_seconds=0.5) as session:
        session.attach(net)
        with capture_logs() as logs:
            began = time.monotonic()
            for _ in range(25):
                assert step(session, net, 1.0).disposition == "applied"
        assert session.clock == 25
        assert time.monotonic() - began > 1.0
        assert [line["event"] for line in logs] == ["the server slows this worker down"]
        assert session.outcome.version == 26
