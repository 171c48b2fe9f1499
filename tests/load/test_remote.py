"""A server that runs already: what it must be like, and that every run begins with its seed's parameters."""

import pytest
import torch

import leeway
from leeway.protocol.rights import Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry
from leeway.worker.train.tasks.task import resolve
from tests.end_to_end.commands import SMALL, Commands
from tests.load.made_up import NONE, SCENARIO
from tests.load.remote import Remote, RemoteError
from tests.load.scenario import Scenario
from tests.load.systems import ASYNC, SYNC, System
from tests.load.trials import Trial
from tests.transport.credentials.clusters import Keys

SMALL_SCENARIO = Scenario(
    name="small",
    title="Small",
    task=SMALL,
    batch_size=20,
    target_accuracy=0.9,
    run_seconds=1.0,
    search_seconds=1.0,
    seeds=(0,),
    learning_rates=(0.4,),
    systems=(SYNC,),
    stragglers=(NONE,),
)

pytestmark = pytest.mark.e2e


@pytest.fixture
def serve(tmp_path):
    with Commands(tmp_path) as running:
        yield running.serve


def test_every_run_begins_with_the_parameters_of_its_seed(serve, tmp_path):
    server = serve("--workers", 2, "--lr", 0.5, "--weight-decay", 0.01, "--clip-norm", 3.0)
    remote = Remote(server.url, [SMALL_SCENARIO], tmp_path)
    prefixes = set()
    for seed, system in ((0, SYNC), (3, System("ssp", 3)), (0, ASYNC)):
        remote.prepare(Trial(SMALL_SCENARIO, system, NONE, seed, 0.25, 1.0))
        wanted = resolve(SMALL)(tmp_path, None).model(seed).state_dict()
        got = server.parameters()
        assert set(got) == set(wanted)
        assert all(torch.allclose(got[name], wanted[name], rtol=0, atol=1e-6) for name in wanted)
        assert server.ask("GET", "/v1/policy")["mode"] == system.mode
        assert server.ask("GET", "/v1/optimizer")["lr"] == 0.25
        prefixes.add(remote.prefix)
        # Somebody trains, and the next run has to undo it.
        with leeway.connect(server.url, f"{remote.prefix}w0") as session:
            model = resolve(SMALL)(tmp_path, None).model(7)
            session.attach(model)
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            session.step(samples=1)
    assert len(prefixes) == 3
    remote.close()
    optimizer = server.ask("GET", "/v1/optimizer")
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["clip_norm"]) == (0.5, 0.01, 3.0)
    assert server.ask("GET", "/v1/policy")["mode"] == "sync"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--optimizer", "adam"), "its optimizer is adam, which cannot be switched; start it with --optimizer sgd"),
        (("--until", 5), "it ends at a clock; start it without --until"),
    ],
)
def test_a_server_that_will_not_do(serve, tmp_path, flags, said):
    server = serve(*flags)
    with pytest.raises(RemoteError) as refused:
        Remote(server.url, [SMALL_SCENARIO], tmp_path)
    assert str(refused.value) == f"--server {server.url}: {said}"


def test_a_server_that_others_use(serve, tmp_path):
    server = serve()
    with leeway.connect(server.url, "theirs") as session:
        session.join()
        with pytest.raises(RemoteError, match="theirs train there; load tests need"):
            Remote(server.url, [SMALL_SCENARIO], tmp_path)


def test_one_server_has_one_model(serve, tmp_path):
    with pytest.raises(RemoteError, match="a server holds one model"):
        Remote(serve().url, [SMALL_SCENARIO, SCENARIO], tmp_path)


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(RemoteError, match=r"^--server http://127.0.0.1:1: .*refused"):
        Remote("http://127.0.0.1:1", [SMALL_SCENARIO], tmp_path)


def test_a_server_that_asks_for_tokens_and_certificates(serve, tmp_path, monkeypatch):
    keys = Keys(tmp_path / "cluster", ())
    server, owner = keys.of("server"), keys.of("admin")
    # Whoever runs load tests trains, under names of their own, and changes the run.
    token = (owner / "token").read_text().strip()
    caller = Caller("admin", frozenset({Right.ADMIN, Right.WORKER}))
    (server / "tokens.toml").write_text(tokens.written([Entry(caller, tokens.digest(token))]))
    tls = ("--tls-cert", server / "cert.pem", "--tls-key", server / "key.pem", "--tls-client-ca", server / "ca.pem")
    running = serve("--workers", 2, "--lr", 0.5, *tls, "--tokens", server / "tokens.toml")
    with pytest.raises(RemoteError, match="certificate"):
        Remote(running.url, [SMALL_SCENARIO], tmp_path)
    for name, value in keys.variables("admin").items():
        monkeypatch.setenv(name, value)
    remote = Remote(running.url, [SMALL_SCENARIO], tmp_path)
    remote.prepare(Trial(SMALL_SCENARIO, ASYNC, NONE, 0, 0.25, 1.0))
    remote.close()
    running.credentials = keys.credentials("admin")
    assert running.ask("GET", "/v1/optimizer")["lr"] == 0.5
