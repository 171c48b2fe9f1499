"""The callback with the `Trainer` of transformers, against `ps-serve` itself, beside the same Trainer without.

Run by test_frameworks.py in the environment that has transformers.
"""

import inspect
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import leeway
from leeway.transformers import LeewayCallback
from leeway.worker.callbacks.fitting import Fitted
from tests.worker.callbacks.near import serving

pytestmark = pytest.mark.usefixtures("one_thread")

# Nothing is asked of a hub: the model is made from its configuration.
os.environ["HF_HUB_OFFLINE"] = "1"

STARTS = torch.randint(0, 16, (88, 1), generator=torch.Generator().manual_seed(3))
TEXTS = [{"input_ids": row, "labels": row} for row in (STARTS + 3 * torch.arange(8)) % 16]


def model():
    torch.manual_seed(1)
    sizes = {"vocab_size": 16, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    silent = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **silent, bos_token_id=0, eos_token_id=0))


class Steps(TrainerCallback):
    """Notes what the Trainer has seen of its steps."""

    def __init__(self, session=None):
        self.session = session
        self.losses, self.weights = [], []

    def on_optimizer_step(self, args, state, control, **_):
        if self.session:
            self.weights.append(self.session.samples.before("default"))

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"])


class Shared(Trainer):
    """A Trainer that reads its worker's share."""

    def get_train_dataloader(self):
        sampler = leeway.Sampler(self.train_dataset, self.session)
        loader = DataLoader(
            self.train_dataset, self.args.train_batch_size, sampler=sampler, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)


def trainer(folder, *callbacks, of=Trainer, net=None, **options):
    steady = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    schedule = {"learning_rate": 1e-2, "lr_scheduler_type": "cosine", "warmup_steps": 2, "max_grad_norm": 0.5}
    options = steady | schedule | {"per_device_train_batch_size": 8, "num_train_epochs": 2, "seed": 4} | options
    arguments = TrainingArguments(str(folder), **options)
    return of(net or model(), arguments, train_dataset=TEXTS, callbacks=list(callbacks))


def train(folder, *callbacks, resume=None, **options):
    run = trainer(folder, *callbacks, **options)
    run.train(resume_from_checkpoint=resume)
    return run.model


def train_together(workers):
    """Each in a thread of its own. Where one fails, nobody waits for it.

    A Trainer that is made begins with accelerate's state of the whole process anew: all are made before any trains.
    """

    def work(run, session):
        try:
            run.train()
        except BaseException:
            for _, each in workers:
                each.close()
            raise

    with ThreadPoolExecutor(len(workers)) as threads:
        for trained in [threads.submit(work, *worker) for worker in workers]:
            trained.result()


def same(net, other):
    """Which tensors are not equal, bit by bit."""
    values = other.state_dict()
    return [name for name, tensor in net.state_dict().items() if not torch.equal(tensor, values[name])]


RUNS = {
    "clipping and a schedule": ({}, 22),
    "accumulation": ({"gradient_accumulation_steps": 4}, 6),
    "adafactor in bf16": ({"bf16": True, "optim": "adafactor"}, 22),
}


@pytest.mark.parametrize("name", RUNS)
def test_with_one_worker_it_is_the_plain_trainer_in_all_digits(name, tmp_path):
    options, steps = RUNS[name]
    expected = train(tmp_path, **options)
    with serving() as url:
        session = leeway.connect(url, "w0")
        found = train(tmp_path, LeewayCallback(session), **options)
        assert same(found, expected) == []
        assert session.clock == steps
    assert same(found, model()) != []


def test_the_servers_optimizer_steps_with_gradients_that_were_clipped(tmp_path):
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "max_steps": 6, "max_grad_norm": 0.05}
    expected = train(tmp_path, learning_rate=0.5, **options)
    with serving(lr=0.5) as url:
        session = leeway.connect(url, "w0")
        found = train(tmp_path, LeewayCallback(session, server_optimizer=True), learning_rate=123.0, **options)
        assert session.clock == 6
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"torch_compile": True, "torch_compile_backend": "eager"}])
def test_weights_are_the_samples_that_were_read(tmp_path, options):
    with serving() as url:
        session = leeway.connect(url, "w0")
        steps = Steps(session)
        batches = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 3, "num_train_epochs": 1}
        train(tmp_path, LeewayCallback(session), steps, **batches, **options)
    assert steps.weights == [36, 36, 16]  # 88 samples in batches of 12: the last one has 4


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_two_workers_learn(tmp_path, mode, recwarn):
    def prepared(place):
        session = leeway.connect(url, f"w{place}")
        steps = Steps()
        run = trainer(tmp_path / str(place), LeewayCallback(session), steps, of=Shared, max_steps=1000)
        run.session = session
        return run, session, steps

    with serving(workers=2, mode=mode, until=40) as url:
        workers = [prepared(place) for place in range(2)]
        train_together([(run, session) for run, session, _ in workers])
        for _, session, steps in workers:
            assert (session.ending, session.clock) == ("finished", 40)
            assert sum(steps.losses[-5:]) < sum(steps.losses[:5]) / 2
    assert [one for one in recwarn if "does not share" in str(one.message)] == []


def test_the_end_of_the_run_stops_the_trainer(tmp_path):
    with serving(until=5) as url:
        session = leeway.connect(url, "w0")
        run = trainer(tmp_path, LeewayCallback(session), max_steps=1000)
        run.train()
        assert (run.state.global_step, session.ending) == (5, "finished")


def test_a_trainer_that_ends_before_the_run_leaves_it(tmp_path):
    with serving(until=500) as url:
        session = leeway.connect(url, "w0")
        train(tmp_path, LeewayCallback(session), max_steps=3)
        assert session.clock == 3
        with pytest.raises(leeway.SessionClosed):
            session.pull()


class Taken(TrainerCallback):
    """Ends a training after an epoch, as somebody does who needs the machine."""

    def on_epoch_end(self, args, state, control, **_):
        control.should_training_stop = True


def test_a_training_that_is_resumed_goes_on_where_the_run_is(tmp_path):
    def twice(name, callbacks):
        folder = tmp_path / name
        train(folder, *callbacks(), Taken(), save_strategy="epoch")
        return train(folder, *callbacks(), resume=True)

    expected = twice("expected", list)
    with serving() as url:
        found = twice("found", lambda: [LeewayCallback(leeway.connect(url, "w0"))])
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)


def test_a_training_that_cannot_begin_closes_the_session(tmp_path):
    with serving() as url:
        session = leeway.connect(url, "w0")
        with pytest.raises(ValueError, match="samples is 0"):
            train(tmp_path, LeewayCallback(session, samples=0))
        with pytest.raises(leeway.SessionClosed):
            session.pull()


def test_an_exception_closes_the_session_of_a_with_block(tmp_path):
    class Failing(Trainer):
        def training_step(self, *_):
            raise RuntimeError("the script's own mistake")

    with serving() as url:
        with pytest.raises(RuntimeError, match="own mistake"), leeway.connect(url, "w0") as session:
            train(tmp_path, LeewayCallback(session), of=Failing)
        with pytest.raises(leeway.SessionClosed):
            session.pull()


def test_data_that_are_not_shared_out_are_told(tmp_path):
    def prepared(place):
        session = leeway.connect(url, f"w{place}")
        return trainer(tmp_path / str(place), LeewayCallback(session), max_steps=4), session

    with serving(workers=2) as url:
        workers = [prepared(place) for place in range(2)]
        with pytest.warns(UserWarning, match="each reads all the data: a Seedable"):
            train_together(workers)
        assert [session.clock for _, session in workers] == [4, 4]


def test_help_shows_the_options_and_their_defaults():
    assert inspect.signature(LeewayCallback) == inspect.signature(Fitted)
