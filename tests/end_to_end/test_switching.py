"""Policy and learning rate changed on a live run, by HTTP alone."""

import pytest
import torch

from tests.end_to_end.commands import SMALL
from tests.guarantees import judge, read

pytestmark = pytest.mark.e2e

WORKERS = 3
STEPS = 120


def test_a_switch_through_all_policies_loses_nothing(commands):
    server = commands.serve(
        *("--workers", WORKERS, "--mode", "async", "--lr", 0.05, "--until", STEPS, "--history", "history.jsonl")
    )
    flags = ("--batch-size", 8, "--start-together", WORKERS)
    workers = commands.workers(WORKERS - 1, SMALL, server, *flags, "--slow", 0.01)
    workers.append(commands.work(SMALL, server, "slow", *flags, "--slow", 0.02))
    etag = server.version(at_least=20)
    for mode in ({"mode": "ssp", "staleness": 1}, {"mode": "sync"}, {"mode": "async"}):
        answer = server.ask("PUT", "/v1/policy", mode)
        assert answer["mode"] == mode["mode"]
        # Towards sync all have to come to one clock first.
        server.hear(f'"mode": "{mode["mode"]}"')
        number = int(etag.strip('"').partition(".")[2])
        etag = server.version(at_least=number + 15)
    for process in workers:
        process.wait()
    server.wait()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert facts.modes == ["ssp", "sync", "async"]
    assert not facts.held
    assert len(facts.told) == len(facts.applied) == WORKERS * STEPS
    assert {disposition for disposition in facts.told.values()} == {"applied", "held"}


def test_a_learning_rate_changed_on_a_live_run_takes_effect(commands):
    server = commands.serve("--workers", 2, "--mode", "async", "--lr", 0.05)
    workers = commands.workers(2, SMALL, server, "--batch-size", 8, "--slow", 0.01)
    server.version(at_least=2)
    before = server.parameters()
    server.version(at_least=10)
    told = server.ask("PUT", "/v1/optimizer", {"lr": 0})
    assert told["learning_rate"] == 0
    assert server.ask("GET", "/v1/optimizer")["lr"] == 0
    first = server.parameters()
    version = server.status()["groups"]["default"]["version"]
    server.version(at_least=version + 10)
    second = server.parameters()
    assert any(not torch.equal(before[name], value) for name, value in first.items())
    assert all(torch.equal(first[name], value) for name, value in second.items()), "steps of rate 0 change nothing"
    server.ask("PUT", "/v1/optimizer", {"lr": 0.05})
    version = server.status()["groups"]["default"]["version"]
    server.version(at_least=version + 10)
    assert any(not torch.equal(second[name], value) for name, value in server.parameters().items())
    server.stop()
    for process in workers:
        process.end()
