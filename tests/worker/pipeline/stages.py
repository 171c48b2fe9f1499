"""Stages of one replica in one process, each with its own loop in its own thread, over sockets of the loopback."""

import contextlib
import threading
import time

import torch

from leeway.protocol.handovers import Call, Direction, Purpose
from leeway.protocol.lives import Life
from leeway.worker.blocking import BlockingClient
from leeway.worker.pipeline.blocking import BlockingNeighbours
from leeway.worker.pipeline.neighbours import Handed

# Nobody is asked anything there: these stages never join.
SERVER = "http://127.0.0.1:9"
LIFE = Life("w0", 7, 1)
NEXT_LIFE = Life("w0", 7, 2)
SECRET = "s3cret"
CALL = Call(Purpose.TRAIN, 8)


@contextlib.contextmanager
def stages(count, **options):
    """With their doors open, and no life yet."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            client = BlockingClient(SERVER, "w0")
            stack.callback(client.close)
            made.append(BlockingNeighbours(client, SERVER, **options))
        yield made
        # A connection that comes in while its listener closes is forgotten by the asyncio of Python 3.11, unclosed: so
        # nobody tries any more when doors close.
        for stage in made:
            quiet(stage)


def quiet(stage):
    """Nothing is on its way from there any more."""
    stage.drop("the test is over")
    until(lambda: stage.carried.in_flight == 0)


def begin(made, life=LIFE, *, clock=0, addresses=None, secret=SECRET, **terms):
    addresses = addresses or [stage.address for stage in made]
    terms = {"micro_batches": 8, "room": 2} | terms
    for number, stage in enumerate(made):
        stage.begin_life(life, number, len(made), addresses, secret, **terms)
        if clock is not None:
            stage.begin(clock, CALL)


def handed(direction=Direction.FORWARD, micro_batch=0, value=1.0, elements=4, **tensors):
    tensors = tensors or {"x": torch.full((elements,), float(value))}
    return Handed(direction, micro_batch, 4, 32, tensors)


def same(one, other):
    """Whether what was received is what was sent, to the last bit."""
    return (
        (one.direction, one.micro_batch, one.samples, one.total)
        == (other.direction, other.micro_batch, other.samples, other.total)
        and list(one.tensors) == list(other.tensors)
        and all(
            a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
            for a, b in zip(one.tensors.values(), other.tensors.values(), strict=True)
        )
    )


def until(so, seconds=20.0):
    """Nothing tells of it: look again and again."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)


class Doing:
    """A call in a thread of its own, and what comes of it."""

    def __init__(self, call):
        self._call = call
        self._result = self._error = None
        self._thread = threading.Thread(target=self._do, daemon=True)
        self._thread.start()

    def _do(self):
        try:
            self._result = self._call()
        except BaseException as error:  # it is raised by `result`
            self._error = error

    @property
    def done(self):
        return not self._thread.is_alive()

    def result(self, seconds=20.0):
        self._thread.join(seconds)
        assert self.done, "it still waits"
        if self._error is not None:
            raise self._error
        return self._result
