"""Optimizers of a script, and the parts that they have parameters of, against `ps-serve` itself."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import nn

import leeway
from leeway.worker.blocking import BlockingGroup
from tests.worker.gan import gan, noises, same, train
from tests.worker.test_against_server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_wrap_for_each_optimizer(mode):
    netG, netD = gan()
    of_g = torch.optim.Adam(netG.parameters(), lr=0.01, betas=(0.5, 0.999))
    of_d = torch.optim.RMSprop(netD.parameters(), lr=0.01)
    plainG, plainD = gan()
    plain_g = torch.optim.Adam(plainG.parameters(), lr=0.01, betas=(0.5, 0.999))
    plain_d = torch.optim.RMSprop(plainD.parameters(), lr=0.01)

    train(plainG, plainD, plain_g, plain_d, 10)
    with serving("--mode", mode) as (_, url):
        of_d = leeway.wrap(of_d, {"G": netG, "D": netD}, url=url, rank="w0")
        with of_d.session as session:
            of_g = session.wrap(of_g)
            train(netG, netD, of_g, of_d, 10)
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


class Ones(nn.Module):
    """A parameter whose gradient of `loss` is -1 in each element: with rate 1 each step adds one."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(4))

    def loss(self):
        return -self.value.sum()


def test_a_step_without_gradients_leaves_nothing_to_be_completed():
    nets = {"A": Ones(), "B": Ones()}
    optimizer = torch.optim.SGD([net.value for net in nets.values()], lr=1.0)
    with serving("--mode", "sync", "--lr", "1") as (_, url):
        session = leeway.wrap(optimizer, nets, url=url, rank="w0", server_optimizer=True).session
        with pytest.raises(ValueError, match="no parameter has a gradient"):
            optimizer.step()
        nets["A"].loss().backward()
        optimizer.step()
        assert {name: part.clock for name, part in session.parts.items()} == {"A": 1, "B": 0}
        session.close()


@pytest.fixture(scope="module", params=[False, True], ids=["its own steps", "the server's"])
def at_server(request):
    """Where to wrap, and how."""
    flags = ("--mode", "sync", "--lr", "1") if request.param else ("--mode", "sync")
    with serving(*flags) as (_, url):
        yield {"url": url, "rank": "w0", "server_optimizer": request.param}


NUMBERS = count()


@pytest.mark.parametrize("repeat", ["the same gradients", "new gradients", "a closure"])
@pytest.mark.parametrize(("parts", "where"), [(1, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("when", ["before it is sent", "behind its reply"])
def test_an_interrupted_step_that_is_called_again_counts_once_in_each_part(
    monkeypatch, at_server, repeat, parts, where, when
):
    nets = {f"part{next(NUMBERS)}": Ones() for _ in range(parts)}
    parameters = [net.value for net in nets.values()]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    pushpull = BlockingGroup.pushpull

    def backward():
        optimizer.zero_grad()
        loss = sum(net.loss() for net in nets.values())
        loss.backward()
        return loss

    def interrupted(self, *arguments, **named):
        if self.conversation.group != list(nets)[where]:
            return pushpull(self, *arguments, **named)
        monkeypatch.undo()
        if when == "behind its reply":
            pushpull(self, *arguments, **named)
        raise KeyboardInterrupt

    def step(again=False):
        if repeat == "a closure":
            return optimizer.step(backward)
        if not again or repeat == "new gradients":
            backward()
        return optimizer.step()

    with leeway.wrap(optimizer, nets, **at_server).session as session:
        step()
        monkeypatch.setattr(BlockingGroup, "pushpull", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step()
        step(again=True)
        assert [part.clock for part in session.parts.values()] == [2] * parts
        step()
        assert [part.clock for part in session.parts.values()] == [3] * parts
        assert [parameter.tolist() for parameter in parameters] == [[3.0] * 4] * parts
