"""Stages in one process, each in a thread of its own, with bounded queues between them."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from leeway.worker.pipeline.computing import Computing
from leeway.worker.pipeline.iteration import Iteration
from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.neighbours import Dropped, Handed
from leeway.worker.pipeline.stage import build

# A thread that waits looks this often whether another has failed.
_LOOK_SECONDS = 0.02


class Wires:
    """The queues between stages: one for each pair and direction, in which `capacity` may wait."""

    def __init__(self, capacity=1):
        self._capacity = capacity
        self._lock = threading.Lock()
        self._queues = {}
        self.dropped = threading.Event()

    def between(self, sender, receiver, direction):
        with self._lock:
            return self._queues.setdefault((sender, receiver, direction), queue.Queue(self._capacity))


class Near:
    """The neighbours of one stage. What is sent is copied, and loses its strides, as by a link."""

    def __init__(self, wires, stage):
        self._wires, self._stage = wires, stage

    def send(self, stage, handed):
        assert all(not tensor.requires_grad for tensor in handed.tensors.values())
        form = torch.contiguous_format
        copies = {name: tensor.clone(memory_format=form) for name, tensor in handed.tensors.items()}
        copy = Handed(handed.direction, handed.micro_batch, handed.samples, handed.total, copies)
        wire = self._wires.between(self._stage, stage, handed.direction)
        self._until_done(lambda: wire.put(copy, timeout=_LOOK_SECONDS))

    def receive(self, stage, direction, micro_batch):
        wire = self._wires.between(stage, self._stage, direction)
        handed = self._until_done(lambda: wire.get(timeout=_LOOK_SECONDS))
        assert handed.micro_batch == micro_batch
        return handed

    def _until_done(self, attempt):
        while not self._wires.dropped.is_set():
            try:
                return attempt()
            except (queue.Full, queue.Empty):
                continue
        raise Dropped("another stage has failed")


class InTurn(Computing):
    """The generators of torch are the process's: of several stages in one, one computes at a time."""

    _turn = threading.Lock()

    def forward(self, *arguments):
        with self._turn:
            return super().forward(*arguments)

    def backward(self, *arguments):
        with self._turn:
            return super().backward(*arguments)

    def weights(self, *arguments):
        with self._turn:
            return super().weights(*arguments)

    def look(self, *arguments):
        with self._turn:
            return super().look(*arguments)


class Pipeline:
    """All stages of a model. `make` makes it anew for each, as each process does."""

    def __init__(self, make, sizes, *, loss, blocks=None, seed=5, rank="w0", recompute=False, init=False):
        self.stages = [build(Layers(make(), blocks), sizes, number, seed, init=init) for number in range(len(sizes))]
        self.computing = [
            InTurn(stage, seed=seed, rank=rank, loss=loss if stage.last else None, recompute=recompute)
            for stage in self.stages
        ]

    def train(self, schedule, count, inputs, targets, number=0):
        return self._all(number, count, inputs, targets, lambda iteration: iteration.train(schedule))

    def evaluate(self, count, inputs, targets=None, number=0):
        return self._all(number, count, inputs, targets, lambda iteration: iteration.evaluate())

    def _all(self, number, count, inputs, targets, run):
        wires = Wires()

        def one(computing):
            stage = computing.stage
            mine = inputs if stage.first else None, targets if stage.last else None
            try:
                return run(Iteration(computing, Near(wires, stage.number), number, count, *mine))
            except BaseException:
                wires.dropped.set()
                raise

        with ThreadPoolExecutor(len(self.computing)) as threads:
            futures = [threads.submit(one, computing) for computing in self.computing]
        # The cause, not those whom it stopped.
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, Dropped)):
            raise error
        return [future.result() for future in futures]

    # What all stages have together, under the names of the whole model.

    def gradients(self):
        """Of each key, by its first name: the gradient on the stage that owns it; the others have none."""
        found = {}
        for stage in self.stages:
            foreign = {tie.key for tie in stage.ties if tie.owner != stage.number}
            for name, parameter in stage.module.named_parameters():
                if name in foreign:
                    assert parameter.grad is None
                else:
                    assert name not in found
                    found[name] = parameter.grad
        return found

    def buffers(self):
        return {name: buffer for stage in self.stages for name, buffer in stage.module.named_buffers()}

    def values(self):
        return {name: tensor for stage in self.stages for name, tensor in stage.module.state_dict().items()}


def exactly(left, right):
    """Whether both have the same names with the same bytes."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        other = right[name]
        assert (tensor is None) == (other is None), name
        if tensor is not None:
            assert tensor.dtype == other.dtype
            assert torch.equal(tensor, other), name
    return True


def closely(left, right):
    """Whether both have the same names with the same values, to float tolerance."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        if tensor is None or right[name] is None:
            assert tensor is right[name], name
        else:
            torch.testing.assert_close(tensor, right[name], msg=lambda text, name=name: f"{name}: {text}")
    return True
