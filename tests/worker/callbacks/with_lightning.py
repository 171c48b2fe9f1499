"""The callback with Lightning's own `Trainer`, against `ps-serve` itself, beside the same trainer without.

Run by test_frameworks.py in the environment that has Lightning.
"""

import inspect
from concurrent.futures import ThreadPoolExecutor

import lightning
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leeway
from leeway.lightning import LeewayCallback
from leeway.worker.callbacks.fitting import Fitted
from tests.worker import test_against_server
from tests.worker.callbacks.near import serving

pytestmark = pytest.mark.usefixtures("one_thread")

POINTS = torch.randn(320, 8, generator=torch.Generator().manual_seed(3))
DATA = TensorDataset(POINTS, (POINTS.sum(1) > 0).long())


def loader(data=DATA, **options):
    return DataLoader(data, batch_size=30, shuffle=True, generator=torch.Generator().manual_seed(5))


class Module(lightning.LightningModule):
    """A classifier with AdamW and a schedule by steps. `seen`: the batches that it was given."""

    def __init__(self, rate=0.01):
        super().__init__()
        torch.manual_seed(1)
        self.rate = rate
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
        self.seen = 0
        self.losses = []

    def loss_of(self, batch):
        inputs, targets = batch
        return nn.functional.cross_entropy(self.net(inputs), targets)

    def training_step(self, batch, batch_idx):
        self.seen += 1
        loss = self.loss_of(batch)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Scaled(Module):
    """With a loss that overflows at its third batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (float("inf") if self.seen == 3 else 1.0)


class Closures(Module):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=3)


class Plain(Module):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


class Halves(Module):
    """Manual optimization: an optimizer for each half of the net."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.seen += 1
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(self.loss_of(batch))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.Adam(self.net[3].parameters(), lr=0.01)


def trainer(*callbacks, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    options = quiet | {"accelerator": "cpu", "devices": 1, "max_epochs": 2} | options
    return lightning.Trainer(callbacks=list(callbacks), **options)


def fit(module, *callbacks, data=None, ckpt_path=None, **options):
    run = trainer(*callbacks, **options)
    run.fit(module, data or loader(), ckpt_path=ckpt_path)
    return run


def same(module, other):
    """Which tensors are not equal, bit by bit."""
    values = other.state_dict()
    return [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, values[name])]


CLIPPED = {"gradient_clip_val": 0.05}
RUNS = {
    "clipping, accumulation and a schedule": (Module, {"accumulate_grad_batches": 3, **CLIPPED}, 8),
    "clipping by value": (Module, {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}, 22),
    "bf16": (Module, {"precision": "bf16-mixed", **CLIPPED}, 22),
    "closures": (Closures, {}, 22),
    "manual optimization": (Halves, {}, 44),
}


@pytest.mark.parametrize("name", RUNS)
def test_with_one_worker_it_is_the_plain_trainer_in_all_digits(name):
    make, options, steps = RUNS[name]
    expected, found = make(), make()
    fit(expected, **options)
    with serving() as url:
        session = leeway.connect(url, "w0")
        fit(found, LeewayCallback(session), **options)
        assert same(found, expected) == []
        assert session.clock == steps
    assert same(found, make()) != []


def test_clipping_is_in_what_is_pushed():
    unclipped, clipped = Plain(rate=1.0), Plain(rate=1.0)
    fit(unclipped, max_steps=1)
    with serving() as url:
        session = leeway.connect(url, "w0")
        fit(clipped, LeewayCallback(session), max_steps=1, **CLIPPED)
        with leeway.connect(url, "reader") as reader:
            before, there = Plain(), Plain()
            reader.attach(there)
            moved = [new - old for new, old in zip(there.parameters(), before.parameters(), strict=True)]
            norm = torch.linalg.vector_norm(torch.cat([tensor.flatten() for tensor in moved]))
            torch.testing.assert_close(norm.item(), CLIPPED["gradient_clip_val"], rtol=1e-4, atol=0)
    assert same(unclipped, clipped) != []


def test_a_step_that_the_scaler_leaves_out_is_no_iteration():
    def amp():
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))

    expected, found = Scaled(), Scaled()
    fit(expected, plugins=[amp()], **CLIPPED)
    with serving() as url:
        session = leeway.connect(url, "w0")
        fit(found, LeewayCallback(session), plugins=[amp()], **CLIPPED)
        assert same(found, expected) == []
        assert (found.seen, session.clock) == (22, 21)


def test_local_steps():
    expected, found = Module(), Module()
    fit(expected, **CLIPPED)
    with serving() as url:
        session = leeway.connect(url, "w0")
        fit(found, LeewayCallback(session, every=4), **CLIPPED)
        assert session.clock == 22 // 4
        torch.testing.assert_close(found.state_dict(), expected.state_dict())


def test_the_servers_optimizer_steps_with_gradients_that_were_clipped():
    expected, found = Plain(rate=0.5), Plain(rate=123.0)
    fit(expected, accumulate_grad_batches=2, max_steps=6, **CLIPPED)
    with serving(optimizer="momentum", lr=0.5) as url:
        session = leeway.connect(url, "w0")
        callback = LeewayCallback(session, server_optimizer=True)
        fit(found, callback, accumulate_grad_batches=2, max_steps=6, **CLIPPED)
        assert session.clock == 6
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)


def test_weights_are_the_samples_that_were_read():
    weights = []

    class Looking(Module):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            weights.append(session.samples.before("default"))

    with serving() as url:
        session = leeway.connect(url, "w0")
        fit(Looking(), LeewayCallback(session), accumulate_grad_batches=4, max_epochs=1)
    assert weights == [120, 120, 80]  # 320 samples in batches of 30: the last one has 20


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_two_workers_learn(mode, recwarn):
    def work(place):
        session = leeway.connect(url, f"w{place}")
        module = Module()
        data = DataLoader(DATA, batch_size=32, sampler=leeway.Sampler(DATA, session))
        fit(module, LeewayCallback(session), data=data, max_epochs=-1, gradient_clip_val=1.0)
        return module, session

    with serving(workers=2, mode=mode, until=60) as url, ThreadPoolExecutor(2) as threads:
        for module, session in threads.map(work, range(2)):
            assert (session.ending, session.clock) == ("finished", 60)
            assert sum(module.losses[-10:]) < sum(module.losses[:10]) / 2
    assert [one for one in recwarn if "does not share" in str(one.message)] == []


def test_the_end_of_the_run_stops_the_trainer():
    with test_against_server.serving("--until", "5") as (process, url):
        module = Module()
        session = leeway.connect(url, "w0")
        run = fit(module, LeewayCallback(session), max_epochs=-1)
        assert (module.seen, run.global_step, session.ending) == (5, 5, "finished")
        assert process.wait(30) == 0


def test_a_run_that_is_over_is_not_begun():
    module = Module()
    with serving(until=1) as url:
        session = leeway.connect(url, "w0")
        optimizer = session.wrap(torch.optim.SGD(module.parameters(), lr=0.1), module)
        module.loss_of(next(iter(loader()))).backward()
        optimizer.step()
        fit(module, LeewayCallback(session), max_epochs=-1)
        assert (module.seen, session.ending) == (0, "finished")


def test_a_trainer_that_ends_before_the_run_leaves_it():
    with serving(until=500) as url:
        session = leeway.connect(url, "w0")
        fit(Module(), LeewayCallback(session), max_steps=3)
        assert session.clock == 3
        with pytest.raises(leeway.SessionClosed):
            session.pull()


def test_an_exception_closes_the_session():
    class Failing(Module):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("the script's own mistake")

    with serving() as url:
        session = leeway.connect(url, "w0")
        with pytest.raises(RuntimeError, match="own mistake"):
            fit(Failing(), LeewayCallback(session))
        with pytest.raises(leeway.SessionClosed):
            session.pull()


def test_a_fit_that_is_resumed_goes_on_where_the_run_is(tmp_path):
    def train(name, callbacks):
        first, again = Module(), Module()
        fit(first, *callbacks(), max_epochs=1, **CLIPPED).save_checkpoint(tmp_path / name)
        fit(again, *callbacks(), ckpt_path=tmp_path / name, **CLIPPED)
        assert (first.seen, again.seen) == (11, 11)
        return again

    expected = train("expected", lambda: [])
    with serving() as url:
        found = train("found", lambda: [LeewayCallback(leeway.connect(url, "w0"))])
    torch.testing.assert_close(found.state_dict(), expected.state_dict())


def test_validation_leaves_the_session_open():
    class Validated(Module):
        def validation_step(self, batch, batch_idx):
            self.log("loss", self.loss_of(batch))

    with serving() as url:
        session = leeway.connect(url, "w0")
        run, module = trainer(LeewayCallback(session), max_steps=3), Validated()
        run.validate(module, loader(), verbose=False)
        run.fit(module, loader(), loader())
        assert session.clock == 3


def test_a_fit_that_cannot_begin_closes_the_session():
    with serving() as url:
        session = leeway.connect(url, "w0")
        with pytest.raises(ValueError, match="every is 0, it must be at least 1"):
            fit(Module(), LeewayCallback(session, every=0))
        with pytest.raises(leeway.SessionClosed):
            session.pull()


def test_the_servers_optimizer_is_for_one_optimizer():
    with serving() as url:
        session = leeway.connect(url, "w0")
        with pytest.raises(ValueError, match="server_optimizer=True is for one optimizer, and there are 2"):
            fit(Halves(), LeewayCallback(session, server_optimizer=True))


def test_without_an_optimizer_there_is_nothing_to_push():
    class Without(Module):
        def configure_optimizers(self):
            return None

    with serving() as url:
        session = leeway.connect(url, "w0")
        with pytest.raises(ValueError, match="there is no optimizer to wrap"):
            fit(Without(), LeewayCallback(session))


def test_data_that_are_not_shared_out_are_told_once():
    def work(place):
        session = leeway.connect(url, f"w{place}")
        module = Module()
        fit(module, LeewayCallback(session), max_steps=4)
        return session

    with serving(workers=2) as url, ThreadPoolExecutor(2) as threads:
        with pytest.warns(UserWarning, match="each reads all the data: a RandomSampler does not share") as told:
            sessions = list(threads.map(work, range(2)))
        assert [session.clock for session in sessions] == [4, 4]
        assert len([one for one in told if "does not share" in str(one.message)]) <= 2


def test_help_shows_the_options_and_their_defaults():
    assert inspect.signature(LeewayCallback) == inspect.signature(Fitted)
