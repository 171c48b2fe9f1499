"""What moves nothing is said once, and what moves anything is not: against `ps-serve` itself."""

import gc
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from torch.optim.optimizer import _global_optimizer_pre_hooks

import leeway
from tests.worker.test_against_server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def url():
    with serving("--mode", "async", "--lr", "0.01") as (_, url):
        yield url


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Linear(4, 2)


@pytest.fixture
def session(url):
    with leeway.connect(url, "w0") as session:
        yield session


def backward(net):
    net(torch.ones(8, 4)).square().mean().backward()


def heard(work, times=4):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            work()
    return [str(warning.message) for warning in caught]


class TestACarrier:
    def work(self, session, net, make, schedule, **options):
        optimizer = make(net.parameters())
        session.wrap(optimizer, net, samples=1, server_optimizer=True, **options)
        scheduler = schedule(optimizer)

        def step():
            optimizer.zero_grad()
            backward(net)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            if scheduler:
                scheduler.step()

        return heard(step)

    def test_whose_rate_a_scheduler_changes(self, session, net):
        (words,) = self.work(session, net, lambda p: torch.optim.SGD(p, lr=0.1), lambda o: StepLR(o, 1, 0.5))
        assert "has changed lr of SGD, and that has no effect" in words
        assert "lr='script'" in words

    def test_whose_momentum_changes_beside_the_rate(self, session, net):
        def cycle(optimizer):
            return OneCycleLR(optimizer, 0.1, total_steps=10)

        (words,) = self.work(session, net, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), cycle, lr="script")
        assert "has changed momentum of SGD" in words

    @pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)])
    def test_whose_rate_the_server_goes_by(self, session, net, rate):
        made = self.work(session, net, lambda p: torch.optim.SGD(p, lr=rate), lambda o: StepLR(o, 1, 0.5), lr="script")
        assert made == []

    def test_without_a_schedule(self, session, net):
        assert self.work(session, net, lambda p: torch.optim.SGD(p, lr=0.1), lambda o: None) == []


class TestAnOptimizerOfItsOwn:
    """Beside pushes of gradients."""

    def loop(self, session, net, optimizer, update="gradient", **options):
        def step():
            optimizer.zero_grad()
            backward(net)
            session.step(samples=8, update=update, **options)
            optimizer.step()

        return heard(step)

    def test_that_steps_when_the_gradients_are_gone(self, session, net):
        session.attach(net)
        (words,) = self.loop(session, net, torch.optim.SGD(net.parameters(), lr=0.1))
        assert words.startswith("SGD.step() finds no gradients, so neither it nor its scheduler has an effect")

    def test_that_steps_before_the_push(self, session, net):
        session.attach(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def step():
            backward(net)
            optimizer.step()
            session.step(samples=8)

        (words,) = heard(step)
        assert "lost with the next pull: weight, bias" in words
        assert "a step of an optimizer here" in words

    def test_that_trains_something_else_too(self, session, net):
        session.attach(net)
        head = nn.Linear(2, 1)
        assert self.loop(session, net, torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.1)) == []

    def test_of_a_part_that_stays_at_home(self, url):
        net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        with serving("--mode", "async") as (_, other), leeway.connect(other, "w0") as session:
            session.attach(net, exclude="1.*")
            assert self.loop(session, net, torch.optim.SGD(net[1].parameters(), lr=0.1)) == []

    def test_that_takes_local_steps(self, session, net):
        session.attach(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.001)

        def step():
            optimizer.zero_grad()
            backward(net)
            optimizer.step()
            session.step(samples=8, update="delta")

        assert heard(step) == []

    def test_that_is_wrapped(self, session, net):
        session.attach(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        session.wrap(optimizer, samples=1, server_optimizer=True)

        def step():
            backward(net)
            optimizer.step()
            optimizer.zero_grad()

        assert heard(step) == []

    def test_nothing_is_left_when_the_session_is_gone(self, url, net):
        gc.collect()  # sessions of before may be there still: an optimizer and its session know each other
        before = len(_global_optimizer_pre_hooks)
        session = leeway.connect(url, "w1")
        session.attach(net)
        backward(net)
        session.step(samples=8)
        assert len(_global_optimizer_pre_hooks) == before + 1
        session.close()
        del session
        gc.collect()
        assert len(_global_optimizer_pre_hooks) == before
