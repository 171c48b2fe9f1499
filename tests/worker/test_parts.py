"""Several modules, or parts of one, in one session, against `ps-serve` itself."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

import leeway
from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition
from leeway.worker.part import Part
from leeway.worker.session.states import Ending
from tests.worker.test_against_server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]

PLAIN = ("--optimizer", "sgd", "--lr", "0.1")


def gan():
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    return generator, discriminator


def noises(count):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(8, 2, generator=generator) for _ in range(count)]


LOSS = nn.BCEWithLogitsLoss()
REAL, FAKE = torch.ones(8, 1), torch.zeros(8, 1)


def discriminate(netG, netD, noise):
    """The loss of the one that tells real from fake, and the fakes, which the other's goes back through."""
    fakes = netG(noise)
    return LOSS(netD(noise.abs()), REAL) + LOSS(netD(fakes.detach()), FAKE), fakes


def status(url):
    with urlopen(f"{url}/v1/status") as reply:
        return json.load(reply)


def same(*pairs):
    return all(
        torch.equal(tensor, other.state_dict()[name])
        for net, other in pairs
        for name, tensor in net.state_dict().items()
    )


def train_plainly(count):
    """What the session is compared with: plain torch, SGD."""
    netG, netD = gan()
    of_g, of_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (netG, netD))
    for noise in noises(count):
        netD.zero_grad()
        loss, fakes = discriminate(netG, netD, noise)
        loss.backward()
        of_d.step()
        netG.zero_grad()
        LOSS(netD(fakes), REAL).backward()
        of_g.step()
    return netG, netD


@pytest.mark.parametrize("mode", ["sync", "async", "ssp"])
def test_two_models_are_stepped_one_after_the_other(mode):
    netG, netD = gan()
    with serving("--mode", mode, *PLAIN, "--until", "6") as (process, url):
        with leeway.connect(url, "w0") as session:
            session.attach({"G": netG, "D": netD})
            assert set(status(url)["groups"]) == {"default", "G", "D"}
            for noise in noises(6):
                assert not session.finished
                netD.zero_grad()
                loss, fakes = discriminate(netG, netD, noise)
                loss.backward()
                session.step("D", samples=8)
                # What the discriminator collects here is not pushed, and goes with `zero_grad`.
                LOSS(netD(fakes), REAL).backward()
                session.step("G", samples=8)
            assert session.finished
            assert {name: (part.clock, part.ending) for name, part in session.parts.items()} == {
                "G": (6, Ending.FINISHED),
                "D": (6, Ending.FINISHED),
            }
        assert process.wait(30) == 0
    # The last step of each is pushed, and not pulled.
    plainG, plainD = train_plainly(5)
    assert same((netG[0], plainG[0]), (netG[3], plainG[3]), (netD, plainD))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_wrap_for_each_optimizer(mode):
    netG, netD = gan()
    of_g = torch.optim.Adam(netG.parameters(), lr=0.01, betas=(0.5, 0.999))
    of_d = torch.optim.RMSprop(netD.parameters(), lr=0.01)
    plainG, plainD = gan()
    plain_g = torch.optim.Adam(plainG.parameters(), lr=0.01, betas=(0.5, 0.999))
    plain_d = torch.optim.RMSprop(plainD.parameters(), lr=0.01)

    def train(netG, netD, of_g, of_d):
        for noise in noises(10):
            of_d.zero_grad()
            loss, fakes = discriminate(netG, netD, noise)
            loss.backward()
            of_d.step()
            of_g.zero_grad()
            LOSS(netD(fakes), REAL).backward()
            of_g.step()

    train(plainG, plainD, plain_g, plain_d)
    with serving("--mode", mode) as (_, url):
        of_d = leeway.wrap(of_d, {"G": netG, "D": netD}, url=url, rank="w0")
        with of_d.session as session:
            of_g = session.wrap(of_g)
            train(netG, netD, of_g, of_d)
            assert [part.clock for part in session.parts.values()] == [10, 10]
    assert same((netG, plainG), (netD, plainD))


CONFIGURATION = """
mode = "sync"
optimizer = "sgd"
lr = 0.1

[group.embedding]
mode = "async"
lr = 0.5
"""


class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(5, 3)
        self.dense = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, rows):
        return self.dense(self.embedding(rows))

    def parts(self):
        return {"embedding": self.embedding, "dense": self.dense}


def rows(count):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 5, (8,), generator=generator) for _ in range(count)]


@pytest.fixture
def mixture(tmp_path):
    path = tmp_path / "leeway.toml"
    path.write_text(CONFIGURATION)
    return "--config", str(path)


def test_parts_of_one_model_with_a_policy_and_a_rate_of_their_own(mixture):
    model, plain = Recommender(), Recommender()
    optimizer = torch.optim.SGD(
        [{"params": plain.embedding.parameters(), "lr": 0.5}, {"params": plain.dense.parameters()}], lr=0.1
    )
    with serving(*mixture) as (_, url), leeway.connect(url, "w0") as session:
        session.attach(model.parts())
        assert {name: part.policy for name, part in session.parts.items()} == {"embedding": "async", "dense": "sync"}
        for batch in rows(5):
            for net in (model, plain):
                net(batch).square().mean().backward()
            session.step(samples=8)
            optimizer.step()
            optimizer.zero_grad()
            assert same((model, plain))


def test_one_optimizer_of_several_parts_steps_them_all(mixture):
    model, plain = Recommender(), Recommender()
    optimizer, plain_optimizer = (torch.optim.AdamW(net.parameters(), lr=0.01) for net in (model, plain))
    with serving("--mode", "sync") as (_, url):
        optimizer = leeway.wrap(optimizer, model.parts(), url=url, rank="w0")
        with optimizer.session as session:
            for batch in rows(5):
                for net, each in ((model, optimizer), (plain, plain_optimizer)):
                    each.zero_grad()
                    net(batch).square().mean().backward()
                    each.step()
            assert [part.clock for part in session.parts.values()] == [5, 5]
    assert same((model, plain))


def test_the_servers_optimizer_steps_each_part_by_the_scripts_rate_of_it(mixture):
    model = Recommender()
    optimizer = torch.optim.SGD(
        [{"params": model.embedding.parameters(), "lr": 0.25}, {"params": model.dense.parameters()}], lr=0.125
    )
    with serving(*mixture) as (_, url):
        leeway.wrap(optimizer, model.parts(), url=url, rank="w0", server_optimizer=True, lr="script")
        with optimizer.session as session:
            model(rows(1)[0]).square().mean().backward()
            optimizer.step()
            assert [session.server_optimizer(name)["lr"] for name in session.parts] == [0.25, 0.125]
            session.set_learning_rate(1.0)
            assert [session.server_optimizer(name)["lr"] for name in session.parts] == [1.0, 1.0]


def test_two_workers_share_the_parts_and_a_third_comes_late():
    """A round of each part has two members; a worker that joins later begins where the parts are."""
    with serving("--workers", "2", "--mode", "sync", *PLAIN) as (_, url):
        nets = [gan() for _ in range(2)]
        done = []

        def work(number):
            netG, netD = nets[number]
            with leeway.connect(url, f"w{number}") as session:
                session.attach({"G": netG, "D": netD})
                for noise in noises(4):
                    loss, fakes = discriminate(netG, netD, noise)
                    loss.backward()
                    session.step("D", samples=8)
                    LOSS(netD(fakes), REAL).backward()
                    session.step("G", samples=8)
                done.append((session.parts["G"].clock, session.count))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [clock for clock, _ in done] == [4, 4]
        assert same((nets[0][0], nets[1][0]), (nets[0][1], nets[1][1]))
        with leeway.connect(url, "w2") as session:
            late = gan()
            session.attach(dict(zip("GD", late, strict=True)))
            assert [part.version for part in session.parts.values()] == [5, 5]


def test_a_circle_of_waiters_is_broken_and_the_other_goes_on():
    """Both have stepped D and G; then one goes on with D, the other with G, in rounds."""
    with serving("--workers", "2", "--mode", "sync", *PLAIN) as (_, url):
        results = {}
        both_attached = threading.Barrier(2)

        def work(rank, order):
            netG, netD = gan()
            with leeway.connect(url, rank) as session:
                session.attach({"G": netG, "D": netD})
                both_attached.wait(30)
                try:
                    for name in ("D", "G", *order):
                        for parameter in (*netG.parameters(), *netD.parameters()):
                            parameter.grad = torch.ones_like(parameter)
                        session.step(name, samples=8)
                    results[rank] = session.ending, None
                except WireError as error:
                    results[rank] = session.ending, error
                    with pytest.raises(WireError, match="none of these would ever go on"):
                        session.step(order[0], samples=8)
                    assert session.finished

        threads = [threading.Thread(target=work, args=each) for each in (("w0", "DG"), ("w1", "GD"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ((ending, error),) = [result for result in results.values() if result[1]]
    assert (ending, error.code) == (Ending.DEADLOCK, Code.DEADLOCK)
    assert "w0 waits in group D for w1" in error.detail
    assert (None, None) in results.values()


def test_a_part_that_is_complete_before_the_others_is_said_once(tmp_path):
    path = tmp_path / "leeway.toml"
    path.write_text("until = 4\nlr = 0.1\n[group.D]\nuntil = 2\n")
    netG, netD = gan()
    with serving("--config", str(path)) as (process, url):
        with leeway.connect(url, "w0") as session, capture_logs() as logs:
            session.attach({"G": netG, "D": netD})
            outcomes = []
            for noise in noises(4):
                loss, fakes = discriminate(netG, netD, noise)
                loss.backward()
                outcomes.append(session.step("D", samples=8))
                assert all(parameter.grad is None for parameter in netD.parameters())
                LOSS(netD(fakes), REAL).backward()
                session.step("G", samples=8)
            assert session.finished
            with pytest.raises(ValueError, match="nothing more to push: finished"):
                session.step("D", samples=8)
            assert (session.parts["D"].until, session.parts["G"].until) == (2, 4)
        assert process.wait(30) == 0
    assert [outcome.disposition for outcome in outcomes[:2]] == [Disposition.HELD] * 2
    assert [(outcome.reason, outcome.dropped) for outcome in outcomes[2:]] == [(Code.FINISHED, True)] * 2
    (line,) = [line for line in logs if line["event"].startswith("a part is complete")]
    assert line["detail"] == "it is at 2, and G (at 2) go on; [group.D] until = 0 keeps it with them"


def test_a_part_without_an_end_of_its_own_ends_with_the_others(tmp_path):
    path = tmp_path / "leeway.toml"
    path.write_text("until = 2\nlr = 0.1\n[group.D]\nuntil = 0\n")
    netG, netD = gan()
    with serving("--config", str(path)) as (process, url):
        with leeway.connect(url, "w0") as session:
            session.attach({"G": netG, "D": netD})
            for noise in noises(2):
                for _ in range(3):
                    discriminate(netG, netD, noise)[0].backward()
                    session.step("D", samples=8)
                LOSS(netD(netG(noise)), REAL).backward()
                session.step("G", samples=8)
            assert session.parts["G"].finished
            # The server waits for what is computed: this is the last.
            discriminate(netG, netD, noises(1)[0])[0].backward()
            assert session.step("D", samples=8).disposition is Disposition.HELD
            assert session.finished
            assert session.parts["D"].until is None
        assert process.wait(30) == 0


def test_figures_and_samples_are_counted_for_each_part():
    netG, netD = gan()
    with serving("--mode", "async", *PLAIN) as (_, url), leeway.connect(url, "w0") as session:
        session.attach({"G": netG, "D": netD})
        for noise in session.epochs(noises(3), limit=1):
            loss, fakes = discriminate(netG, netD, noise)
            loss.backward()
            session.report(loss_d=loss.detach())
            session.step("D")
            LOSS(netD(fakes), REAL).backward()
            session.step("G")
        (worker,) = status(url)["workers"]
        assert "loss_d" in worker["reported"]
        with pytest.raises(ValueError, match="how many samples"):
            session.step("D")


def test_what_goes_wrong_is_told_in_words():
    netG, netD = gan()
    with serving("--mode", "async") as (_, url), leeway.connect(url, "w0") as session:
        for arguments, words in [
            (({},), "has no part"),
            (({"a b": netG},), "part 'a b' must be"),
            (({"G": netG, "D": netD}, ["0.weight"]), "exclude says of which"),
            (({"G": netG}, {"D": ["0.weight"]}), "exclude names 'D', and the parts are G"),
            (({"G": netG}, (), ["0.weight"]), "keys= is for a part of one group"),
            (({"G": netG, "D": netG},), "G/0.weight and D/0.weight are the same tensor, in two parts"),
            ((netG, {"G": ["0.weight"]}), "exclude is by part, and the model is one"),
            (({"G": 5},), "model is a int"),
        ]:
            with pytest.raises(ValueError, match=words):
                session.attach(*arguments)
        with pytest.raises(ValueError, match="no model is attached"):
            session.step("default", samples=1)
        session.attach({"G": netG, "D": netD}, exclude={"G": ["1.*"]})
        for call, words in [
            (lambda: session.attach(netG), "attached already"),
            (lambda: session.step("E", samples=1), "no part 'E'; this session has G, D"),
            (lambda: session.step(8), "a number of samples is given as samples="),
            (lambda: session.clock, r"several parts \(G, D\).*session.parts\[NAME\].clock"),
            (session.server_optimizer, r"say which: server_optimizer\(part='G'\)"),
            (lambda: session.wrap(torch.optim.SGD(nn.Linear(2, 2).parameters())), "2 of the optimizer's parameters"),
        ]:
            with pytest.raises(ValueError, match=words):
                call()
        assert repr(session) == f"<leeway session w0 at {url}, G iteration 0: computing, D iteration 0: computing>"
        assert session.skip().disposition is Disposition.SKIPPED
        session.pull("G")
        assert [part.clock for part in session.parts.values()] == [1, 1]


def test_an_attach_that_failed_can_be_made_again_with_one_model_or_with_parts():
    netG, netD = gan()
    with serving("--mode", "async") as (_, url):
        with leeway.connect(url, "w0") as session:
            session.attach({"G": netG})
        with leeway.connect(url, "w1") as session:
            with pytest.raises(WireError, match="group 'G' holds another model"):
                session.attach({"G": netD, "D": gan()[1]})
            session.attach({"G": netG, "D": netD})
        with leeway.connect(url, "w2") as session:
            session.attach(netD)
            assert session.policy == "async"
        assert set(status(url)["groups"]) == {"default", "G", "D"}


@pytest.mark.parametrize("resumed", [True, False])
def test_a_server_that_was_killed_has_the_parts_again(resumed, tmp_path):
    """From its checkpoint, or from what the worker holds. What was computed for the one before is dropped."""
    netG, netD = gan()
    flags = ["--mode", "async", *PLAIN, "--state-dir", str(tmp_path / "state")]

    def train(session):
        outcomes = []
        for noise in noises(3):
            for net, part in ((netD, "D"), (netG, "G")):
                net(noise).square().mean().backward()
                outcomes.append(session.step(part, samples=8).dropped)
        return outcomes

    with serving(*flags) as (process, url), leeway.connect(url, "w0") as session:
        session.attach({"G": netG, "D": netD})
        assert train(session) == [False] * 6
        urlopen(Request(f"{url}/v1/checkpoints", method="POST")).read()
        process.kill()
        process.wait()
        flags += ["--resume"] if resumed else ["--state-dir", str(tmp_path / "other")]
        with serving(*flags, port=int(url.rpartition(":")[2])):
            assert train(session) == [True, True, False, False, False, False]
            versions = {name: group["version"] for name, group in status(url)["groups"].items()}
            each = 6 if resumed else 3
            assert versions == {"default": 0, "G": each, "D": each}
            session.close()


def test_a_part_that_was_complete_goes_on_where_a_server_has_gone_back_to_before_its_end(tmp_path):
    """Else others would wait there for a worker that never comes."""
    file = tmp_path / "leeway.toml"
    file.write_text("until = 8\n[group.D]\nuntil = 4\n")
    flags = ["--config", str(file), "--mode", "sync", "--workers", "2", *PLAIN, "--state-dir", str(tmp_path / "state")]

    def train(session, nets, until, barrier):
        """Returns the iterations of D that have counted."""
        counted = []
        while session.parts["G"].clock < until and not session.finished:
            for net, part in zip(nets, ("D", "G"), strict=True):
                net(noises(1)[0]).square().mean().backward()
                outcome = session.step(part, samples=8)
                counted += [outcome.clock] if part == "D" and not outcome.dropped else []
        barrier.wait(60)
        return counted

    def work(url, rank, nets, checkpoint, killed):
        with leeway.connect(url, rank) as session:
            session.attach(dict(zip(("D", "G"), nets, strict=True)))
            train(session, nets, 2, checkpoint)
            checkpoint.wait(60)
            train(session, nets, 6, killed)
            assert (session.parts["D"].finished, session.parts["G"].clock) == (True, 6)
            killed.wait(60)
            again = train(session, nets, 99, checkpoint)
            return session.finished, session.parts["G"].clock, again

    checkpoint, killed = threading.Barrier(3), threading.Barrier(3)
    with serving(*flags) as (process, url), ThreadPoolExecutor(2) as threads:
        workers = [threads.submit(work, url, f"w{each}", gan()[::-1], checkpoint, killed) for each in range(2)]
        checkpoint.wait(60)
        urlopen(Request(f"{url}/v1/checkpoints", method="POST")).read()
        checkpoint.wait(60)
        killed.wait(60)
        process.kill()
        process.wait()
        with serving(*flags, "--resume", port=int(url.rpartition(":")[2])) as (again, _):
            killed.wait(60)
            checkpoint.wait(60)
            assert [worker.result() for worker in workers] == [(True, 8, [2, 3])] * 2
            assert again.wait(30) == 0


def test_a_step_of_several_parts_is_all_or_nothing():
    """What is wrong with one is told before anything of another is sent."""
    netG, netD = gan()
    with serving("--mode", "sync", *PLAIN) as (_, url), leeway.connect(url, "w0") as session:
        session.attach({"D": netD, "G": netG})
        netD(noises(1)[0]).sum().backward()
        with pytest.raises(ValueError, match="part G: no parameter has a gradient"):
            session.step(samples=8)
        assert [part.clock for part in session.parts.values()] == [0, 0]
        netG(noises(1)[0]).sum().backward()
        session.step(samples=8)
        assert [part.clock for part in session.parts.values()] == [1, 1]


def test_an_interrupted_step_of_several_parts_goes_on_with_those_that_are_left(monkeypatch):
    netG, netD = gan()
    with serving("--mode", "sync", *PLAIN) as (_, url), leeway.connect(url, "w0") as session:
        session.attach({"D": netD, "G": netG})
        for net in (netG, netD):
            net(noises(1)[0]).sum().backward()
        push = Part.push

        def interrupted(self, *arguments, **named):
            if self.name == "G":
                monkeypatch.undo()
                raise KeyboardInterrupt
            return push(self, *arguments, **named)

        monkeypatch.setattr(Part, "push", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.step(samples=8)
        assert [part.clock for part in session.parts.values()] == [1, 0]
        session.step(samples=8)
        assert [part.clock for part in session.parts.values()] == [1, 1]
        for net in (netG, netD):
            net(noises(1)[0]).sum().backward()
        session.step(samples=8)
        assert [part.clock for part in session.parts.values()] == [2, 2]


@pytest.mark.parametrize("server_optimizer", [True, False])
def test_an_optimizer_steps_the_parts_that_it_moves(server_optimizer):
    """One is frozen, or has no gradient in this batch: no iteration of it."""
    model = Recommender()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with serving("--mode", "sync") as (_, url):
        leeway.wrap(optimizer, model.parts(), url=url, rank="w0", server_optimizer=server_optimizer)
        with optimizer.session as session:
            model.embedding.requires_grad_(False)
            model(rows(1)[0]).square().mean().backward()
            optimizer.step()
            assert {name: part.clock for name, part in session.parts.items()} == {"embedding": 0, "dense": 1}


def test_an_optimizer_and_a_model_that_do_not_belong_together():
    netG, netD = gan()
    with serving("--mode", "sync") as (_, url), leeway.connect(url, "w0") as session:
        with pytest.raises(ValueError, match="give the model whose parameters"):
            session.wrap(torch.optim.SGD(netG.parameters()))
        session.attach(netG)
        with pytest.raises(ValueError, match="the optimizer has no parameters; add them before"):
            session.wrap(torch.optim.SGD([{"params": []}], lr=0.1))
        with pytest.raises(ValueError, match="another model is attached already"):
            session.wrap(torch.optim.SGD(netG.parameters()), netD)
        optimizer = session.wrap(torch.optim.SGD(netG.parameters(), lr=0.1), netG)
        netG(noises(1)[0]).sum().backward()
        optimizer.step()
        strangers = [torch.nn.Parameter(parameter.detach().clone()) for parameter in netG.parameters()]
        optimizer.param_groups[0]["params"] = strangers
        with pytest.raises(ValueError, match="6 of the optimizer's parameters are not of the model"):
            optimizer.step()
        with pytest.raises(ValueError, match="the learning rate is nan, it must be a number at least 0"):
            session.set_learning_rate(float("nan"))
        session.set_learning_rate(torch.tensor(0.5))
        assert session.server_optimizer()["lr"] == 0.5


def test_who_joins_between_two_parts_is_in_step_after_an_update():
    """Not told `deadlock`: the part where it is missed goes on without it once."""
    with serving("--workers", "1", "--mode", "sync", *PLAIN) as (_, url):
        between, joined, late = threading.Event(), threading.Event(), []

        def step(session, nets, part):
            for net in nets.values():
                net(noises(1)[0]).sum().backward()
            outcome = session.step(part, samples=8)
            late.append(outcome.disposition is Disposition.LATE)
            return outcome

        def first():
            netG, netD = gan()
            nets = {"D": netD, "G": netG}
            with leeway.connect(url, "w0") as session:
                session.attach(nets)
                for iteration in range(12):
                    step(session, nets, "D")
                    if iteration == 1:
                        between.set()
                        assert joined.wait(60)
                    step(session, nets, "G")

        def second():
            netG, netD = gan()
            nets = {"D": netD, "G": netG}
            assert between.wait(60)
            with leeway.connect(url, "w1") as session:
                # The server has begun its life, though it waits for a round.
                joined.set()
                session.attach(nets)
                for _ in range(6):
                    for part in nets:
                        step(session, nets, part)

        with ThreadPoolExecutor(2) as pool:
            for work in [pool.submit(first), pool.submit(second)]:
                work.result(100)
        assert sum(late) <= 2
