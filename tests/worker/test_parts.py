"""Several modules, or parts of one, in one session, against `ps-serve` itself."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import leeway
from leeway.errors import WireError
from leeway.protocol.pushes import Disposition
from leeway.worker.blocking import BlockingGroup
from leeway.worker.parts import STEPS_TO_TELL
from leeway.worker.session.states import Ending
from tests.worker.gan import LOSS, PLAIN, REAL, discriminate, gan, noises, same, status, train_plainly
from tests.worker.test_against_server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]


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
            (({"G": netG, "E": 5},), "^part E: model is a int"),
            (({"G": netG, "E": nn.Flatten()},), "^part E: the model has no parameters"),
            (({"G": netG}, {"G": ["x"]}), "^part G: exclude: 'x' matches no parameter"),
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


@pytest.mark.parametrize("call", ["step", "skip"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_an_interrupted_step_of_several_parts_goes_on_with_those_that_are_left(monkeypatch, call, where):
    """`after`: the update of G has gone out, and what became of it is not known yet."""
    netG, netD = gan()
    with serving("--mode", "sync", *PLAIN) as (_, url), leeway.connect(url, "w0") as session:
        session.attach({"D": netD, "G": netG})

        def all_parts():
            for net in (netG, netD):
                net(noises(1)[0]).sum().backward()
            return session.step(samples=8) if call == "step" else session.skip()

        method = "pushpull" if call == "step" else "skip"
        real = getattr(BlockingGroup, method)

        def interrupted(self, *arguments, **named):
            if self.conversation.group == "G":
                monkeypatch.undo()
                if where == "after":
                    real(self, *arguments, **named)
                raise KeyboardInterrupt
            return real(self, *arguments, **named)

        monkeypatch.setattr(BlockingGroup, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            all_parts()
        all_parts()
        assert [part.clock for part in session.parts.values()] == [1, 1]
        all_parts()
        assert [part.clock for part in session.parts.values()] == [2, 2]


def test_a_pull_sees_an_interrupted_step_of_several_parts_to_its_end(monkeypatch):
    netG, netD = gan()
    with serving("--mode", "sync", *PLAIN) as (_, url), leeway.connect(url, "w0") as session:
        session.attach({"D": netD, "G": netG})
        pushpull = BlockingGroup.pushpull

        def interrupted(self, *arguments, **named):
            found = pushpull(self, *arguments, **named)
            if self.conversation.group == "G":
                monkeypatch.undo()
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(BlockingGroup, "pushpull", interrupted)
        for _ in range(2):
            for net in (netG, netD):
                net(noises(1)[0]).sum().backward()
            try:
                session.step(samples=8)
            except KeyboardInterrupt:
                session.pull()
        assert [part.clock for part in session.parts.values()] == [2, 2]


@pytest.mark.parametrize("interrupted", ["offer", "pull"])
def test_an_attach_of_parts_that_failed_between_them_can_be_made_again(monkeypatch, interrupted):
    netG, netD = gan()
    with serving("--mode", "sync", *PLAIN) as (_, url):
        with leeway.connect(url, "w0") as session:
            session.attach({"D": netD})
        with leeway.connect(url, "w1") as session:
            with pytest.raises(WireError, match="schema-conflict"):
                session.attach({"G": netG, "D": gan()[0]})
            real = getattr(BlockingGroup, interrupted)

            def broken(self, *arguments, **named):
                if self.conversation.group == "D":
                    monkeypatch.undo()
                    raise KeyboardInterrupt
                return real(self, *arguments, **named)

            monkeypatch.setattr(BlockingGroup, interrupted, broken)
            for call in (lambda: session.step(samples=8), lambda: session.attach({"G": netG, "D": netD})):
                with pytest.raises((ValueError, KeyboardInterrupt)):
                    call()
            session.attach({"G": netG, "D": netD})
            before = [part.clock for part in session.parts.values()]
            for net in (netG, netD):
                net(noises(1)[0]).sum().backward()
            session.step(samples=8)
            assert [part.clock for part in session.parts.values()] == [clock + 1 for clock in before]


def test_a_part_that_is_never_stepped_is_told_once():
    netG, netD = gan()
    with serving("--mode", "async", *PLAIN) as (_, url), leeway.connect(url, "w0") as session:
        session.attach({"D": netD, "G": netG})
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2 * STEPS_TO_TELL):
                netD(noises(1)[0]).sum().backward()
                session.step("D", samples=8)
        (one,) = told
        assert str(one.message).startswith(f"D has been stepped {STEPS_TO_TELL} times, and G never")
        assert one.filename == __file__
        session.close()


def test_parts_that_are_all_stepped_are_not_told_of():
    netG, netD = gan()
    with serving("--mode", "async", *PLAIN) as (_, url), leeway.connect(url, "w0") as session:
        session.attach({"D": netD, "G": netG})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.skip("G")
            for _ in range(STEPS_TO_TELL):
                netD(noises(1)[0]).sum().backward()
                session.step("D", samples=8)
        session.close()
