"""Steps that fail half way: what is there afterwards."""

import gc

import pytest
import torch
from torch.optim import adadelta, rmsprop

from leeway.protocol.pushes import UpdateKind
from leeway.ps.arithmetic import buffers, clipping
from leeway.ps.arithmetic.optimizers import StateLost
from leeway.ps.arithmetic.parameters import Parameters, Update
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings
from leeway.transport.memory.pool import Pool

KINDS = list(OptimizerKind)
STATEFUL = [kind for kind in KINDS if kind is not OptimizerKind.SGD]


def tensors():
    return {
        "w": torch.randn(40, 40),
        "b": torch.randn(40),
        "half": torch.randn(4, 4).half(),
        "wide": torch.randn(3, 3).double(),
        "bn.running_mean": torch.randn(3),
        "bn.num_batches_tracked": torch.tensor(4),
    }


@pytest.fixture(scope="session")
def begun(frame):
    """A group after one step of some of its tensors, so that others have no state yet."""

    def build(kind, **fields):
        parameters = Parameters(OptimizerSettings.read({"kind": kind, "lr": 0.1, **fields}), Pool())
        offered = frame(tensors())
        parameters.versions.publish(parameters.offer(1, offered, {spec.name for spec in offered.specs}))
        some = {name: tensor for name, tensor in tensors().items() if name != "b"}
        parameters.versions.publish(step(parameters, frame(some)).snapshot)
        return parameters

    return build


def step(parameters, *frames):
    updates = [Update(UpdateKind.GRADIENT, 1, (one,)) for one in frames]
    return parameters.step(parameters.versions.current.number + 1, updates, aggregated=len(updates) > 1)


def state_of(parameters):
    saved = parameters.save()
    states = {name: tensor.clone() for name, tensor in saved.optimizer_tensors.items()}
    states |= {f"master/{name}": master.clone() for name, master in saved.masters.items()}
    return saved.number, bytes(saved.body), states, saved.optimizer


def assert_same(found, expected):
    assert (found[0], found[1], found[3]) == (expected[0], expected[1], expected[3])
    assert found[2].keys() == expected[2].keys()
    for name, tensor in expected[2].items():
        assert torch.equal(found[2][name], tensor), name


class Stumbles:
    """Calls what it stands for, and raises at the call of this number; once."""

    def __init__(self, real, at):
        self.real, self.left = real, at

    def __call__(self, *arguments, **named):
        self.left -= 1
        if self.left == 0:
            raise MemoryError("out of memory, just here")
        return self.real(*arguments, **named)


FAILURES = [
    (clipping, "get_total_norm", 1),
    (torch, "mul", 1),
    (torch, "mul", 2),
    (torch, "zeros_like", 1),
    (torch, "add", 1),
    (torch, "add", 2),
    (buffers, "aggregate", 1),
    (buffers, "arrive", 1),
    (torch, "frombuffer", 1),
    (torch, "frombuffer", 2),
]


@pytest.mark.parametrize(("place", "name", "at"), FAILURES, ids=lambda part: getattr(part, "__name__", part))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_fails_early_has_never_been(monkeypatch, begun, frame, place, name, at, kind, workers):
    parameters, sent = begun(kind, clip_norm=1e-3), [frame(tensors()) for _ in range(workers)]
    before = state_of(parameters)
    with monkeypatch.context() as patch:
        target = torch.nn.utils if name == "get_total_norm" else place
        stumbles = Stumbles(getattr(target, name), at)
        patch.setattr(target, name, stumbles)
        try:
            step(parameters, *sent)
        except MemoryError:
            failed = True
        else:
            failed = False
    assert failed is (stumbles.left <= 0)
    if not failed:
        return  # this kind does not go that way
    assert_same(state_of(parameters), before)
    gc.collect()
    assert parameters.versions.live == 1
    twin = Parameters(parameters.settings, Pool())
    twin.versions.publish(twin.restore(parameters.save()))
    found, expected = step(parameters, *sent), step(twin, *sent)
    assert bytes(found.snapshot.body) == bytes(expected.snapshot.body)
    assert_same(state_of(parameters), state_of(twin))


# What torch steps a parameter group with.
_WRITES = {
    "adam": (torch, "_fused_adam_"),
    "adamw": (torch, "_fused_adamw_"),
    "adagrad": (torch, "_fused_adagrad_"),
    "rmsprop": (rmsprop, "_single_tensor_rmsprop"),
    "adadelta": (adadelta, "_single_tensor_adadelta"),
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_torch_failing_while_it_writes_is_said_and_the_state_begins_anew(monkeypatch, begun, frame, kind):
    parameters, sent = begun(kind), frame(tensors())
    before = state_of(parameters)
    with monkeypatch.context() as patch:
        # The second span of parameters: the first one's state has been written.
        module, name = _WRITES.get(str(kind), (torch, "_fused_sgd_"))
        patch.setattr(module, name, Stumbles(getattr(module, name), 2))
        with pytest.raises(StateLost, match="just here") as raised:
            step(parameters, sent)
    assert isinstance(raised.value.__cause__, MemoryError)
    del raised
    kept = {name: tensor for name, tensor in before[2].items() if name.startswith("master/")}
    assert_same(state_of(parameters), (before[0], before[1], kept, before[3]))
    found = step(parameters, sent)
    assert (found.snapshot.number, parameters.steps) == (3, 2)


def test_what_goes_wrong_in_an_offer_changes_nothing(monkeypatch, begun, frame):
    parameters = begun(OptimizerKind.ADAM)
    before, more = state_of(parameters), frame({"more": torch.ones(2, 2)})
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "__init__", Stumbles(torch.optim.Adam.__init__, 1))
        with pytest.raises(MemoryError):
            parameters.offer(3, more, {"more"})
    assert_same(state_of(parameters), before)
    step(parameters, frame(tensors()))
    parameters.versions.publish(parameters.offer(4, more, {"more"}))
    assert step(parameters, more).snapshot.number == 5
