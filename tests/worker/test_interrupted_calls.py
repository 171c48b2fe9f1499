"""Ctrl-C at every line of the worker's code, and then the same call again, against `ps-serve` itself.

Each update is a gradient of 1 with a learning rate of 1, so that the weights count: what was pushed twice, in part or
not at all is seen in a number.
"""

import re
import sys
import threading
from contextlib import contextmanager
from random import Random
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from torch import nn

import leeway
from leeway.protocol import routes
from leeway.protocol.decoder import decode
from leeway.protocol.pushes import Disposition
from tests.worker.test_against_server import serving

pytestmark = pytest.mark.e2e

# A step, with some room; the tests that must reach its end count for themselves.
LINES = 330

FLAGS = ("--mode", "async", "--optimizer", "sgd", "--lr", "1")


@pytest.fixture(scope="module")
def server():
    with serving(*FLAGS) as (_, url):
        yield url


class Interrupt:
    """Raises KeyboardInterrupt at the `at`-th line of the worker's code that runs in here, unless that is 0."""

    def __init__(self):
        self.where = None
        self._left = 0

    @contextmanager
    def at(self, line):
        self.where, self._left = None, line
        sys.settrace(self._trace if line else None)
        try:
            yield
        finally:
            sys.settrace(None)

    def _trace(self, frame, event, argument):
        if "/leeway/worker/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._trace


class Model(nn.Module):
    """Trained in turns; tied as one object and as two; frozen, moved by the script; buffers; to be trained later."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.same = self.a
        self.twin = nn.Parameter(self.a.data)
        self.average = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.late = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(2))


class Script:
    """A training script that does everything in turn, and what it must have come to."""

    TURNS = (("a",), ("b",), ("a", "b"), ("late",), ("twin",))

    def __init__(self, session, model):
        self.session, self.model = session, model
        self.counts = {name: -int(getattr(model, name)[0]) for name in ("a", "b", "late")}
        self.counts |= {"average": int(model.average[0]), "count": int(model.count)}
        self.turn = 0

    def compute(self, update="gradient"):
        """One iteration, up to its step."""
        model = self.model
        self.turn += 1
        for name in self.TURNS[self.turn % len(self.TURNS)]:
            tensor = getattr(model, name).requires_grad_()
            if update == "delta":
                tensor.data -= 1
            else:
                tensor.grad = torch.ones(2)
            self.counts[{"twin": "a"}.get(name, name)] += 1
        model.average.data += 1
        model.count += 1
        model.mean += 1
        self.counts["average"] += 1
        self.counts["count"] += 1

    def check(self, url, where):
        with urlopen(Request(f"{url}/v1/params", headers={"Accept": routes.FRAME})) as reply:
            frame = decode(reply.read())
        model, counts = self.model, self.counts
        for name in ("a", "b", "late", "average", "mean"):
            there = np.frombuffer(frame.tensor(name), np.float32).tolist()
            count = {"mean": counts["count"], "average": counts["average"]}.get(name, -counts.get(name, 0))
            assert there == [count] * 2, (name, where)
            assert getattr(model, name).tolist() == there, (name, where)
        assert int(model.count) == counts["count"], where
        assert all(parameter.grad is None for parameter in model.parameters()), where


@contextmanager
def attached(url):
    model = Model()
    with leeway.connect(url, "w0") as session:
        session.attach(model)
        yield Script(session, model)


def again(call, interrupt, lines):
    """Make the call, interrupted at each of `lines` in turn, and then without. Returns where it was interrupted."""
    places = []
    for line in (*lines, 0):
        try:
            with interrupt.at(line):
                call()
            break
        except KeyboardInterrupt:
            places.append(interrupt.where)
        except ValueError as error:
            # It was interrupted when all was done but the return.
            if not places or not re.search("no parameter has a gradient|a model is attached already", str(error)):
                raise
            break
    return places


def lines_of(call, every=1):
    """Each line, or every third, ..., until a call is not interrupted any more, some turns on end."""
    line, misses = 1, 0
    while misses < len(Script.TURNS):
        misses = 0 if call(line) else misses + 1
        line += every
    assert line > 100


@pytest.mark.parametrize(("update", "every"), [("gradient", 1), ("delta", 4)])
def test_a_step_counts_once(update, every, server):
    interrupt = Interrupt()
    with attached(server) as script:

        def step(line):
            script.compute(update)
            before = script.session.clock
            places = again(lambda: script.session.step(samples=1, update=update), interrupt, [line])
            assert script.session.outcome.disposition is Disposition.APPLIED, places
            if update == "gradient":
                assert script.session.clock == before + 1, places
            script.check(server, places)
            return places

        lines_of(step, every)


def test_a_first_step_counts_once(server):
    """What is decided at the first step of a session: what is trained from now on, and what the script has moved."""
    interrupt = Interrupt()
    for line in range(1, LINES, 3):  # each costs a connection
        with attached(server) as script:
            script.turn = Script.TURNS.index(("late",)) - 1
            script.compute()
            places = again(lambda script=script: script.session.step(samples=1), interrupt, [line])
            script.check(server, places)


def test_interrupted_time_and_again(server):
    draws, interrupt = Random(3), Interrupt()
    with attached(server) as script:
        for _ in range(60):
            script.compute()
            lines = draws.choices(range(1, LINES), k=draws.randint(2, 4))
            places = again(lambda: script.session.step(samples=1), interrupt, lines)
            script.check(server, places)


@pytest.mark.parametrize("between", ["pull", "barrier"])
def test_another_call_after_an_interrupted_step_pushes_nothing_twice(between, server):
    draws, interrupt = Random(4), Interrupt()
    with attached(server) as script:
        session = script.session
        for _ in range(50):
            script.compute()
            try:
                with interrupt.at(draws.randrange(1, LINES)):
                    session.step(samples=1)
            except KeyboardInterrupt:
                session.pull() if between == "pull" else session.barrier("between")
                if any(parameter.grad is not None for parameter in script.model.parameters()):
                    # Nothing had gone out, and a pull takes the server's buffers.
                    script.model.count.fill_(script.counts["count"])
                    script.model.mean.fill_(script.counts["count"])
                    session.step(samples=1)
            script.check(server, interrupt.where)


@pytest.mark.parametrize("call", ["pull", "skip"])
def test_a_call_between_steps_again(call, server):
    interrupt = Interrupt()
    with attached(server) as script:

        def repeat(line):
            places = again(getattr(script.session, call), interrupt, [line])
            script.compute()
            script.session.step(samples=1)
            script.check(server, places)
            return places

        lines_of(repeat, 4)


def test_attach_again(server):
    interrupt = Interrupt()

    def attach(line):
        model = Model()
        with leeway.connect(server, "w0") as session:
            places = again(lambda: session.attach(model), interrupt, [line])
            script = Script(session, model)
            script.check(server, places)
            script.compute()
            session.step(samples=1)
            script.check(server, places)
            return places

    lines_of(attach, every=13)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loop that no name was given to yet
def test_connect_again(server):
    """Nothing is held by what was never returned, neither the rank nor a thread."""
    interrupt = Interrupt()

    def connect(line):
        sessions = []
        places = again(lambda: sessions.append(leeway.connect(server, "w0")), interrupt, [line])
        for session in sessions:
            session.close()
        return places

    lines_of(connect, every=3)
    for thread in [thread for thread in threading.enumerate() if thread.name == "leeway"]:
        thread.join(10)
        assert not thread.is_alive()


def test_a_step_after_a_pull_in_part_is_refused(server):
    """Gradients, and differences, of a module that holds parts of two versions are none of any."""
    with attached(server) as script:
        session = script.session
        for line in range(1, LINES):
            interrupt = Interrupt()
            try:
                with interrupt.at(line):
                    session.pull()
                break
            except KeyboardInterrupt:
                pass
            script.model.a.grad = torch.ones(2)
            if session.parts["default"]._standing.begun is None:
                continue
            for update in ("gradient", "delta"):
                with pytest.raises(ValueError, match=r"call pull\(\) again"):
                    session.step(samples=1, update=update)
            session.pull()
        assert line > 50
