import math

import pytest
import torch

from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind
from leeway.ps.arithmetic.optimizers import Optimizer
from leeway.ps.arithmetic.runs import Chart, Run
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings
from tests.ps.arithmetic.computing import values_of

SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (33, 7), "conv.bias": (4,), "norm.scale": (), "void": (0, 2)}
KINDS = list(OptimizerKind)
RMSPROP, ADADELTA = OptimizerKind.RMSPROP, OptimizerKind.ADADELTA

# What a plain loop gets with `fused=True`, the others without anything said (docs/topics/optimizers.md).
FUSED = [kind for kind in KINDS if kind not in (RMSPROP, ADADELTA)]

# Each kind as it comes, and where a kind keeps more with some settings, these.
VARIANTS = {str(kind): {"kind": kind} for kind in KINDS} | {
    "rmsprop with momentum": {"kind": RMSPROP, "momentum": 0.8, "alpha": 0.9},
    "rmsprop centered": {"kind": RMSPROP, "centered": True, "eps": 1e-5},
    "rmsprop with both": {"kind": RMSPROP, "momentum": 0.9, "centered": True},
    "adadelta with rho": {"kind": ADADELTA, "rho": 0.7, "eps": 1e-5},
}
every_variant = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)


def model(dtype=torch.float32):
    return {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}


def plain(parameters, settings, *, fused):
    """The loop's optimizer, as a user writes it, with the server's two parameter groups."""
    kind = settings.kind
    flat = settings.weight_decay if settings.decay_vectors else 0.0
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": flat},
    ]
    rate = {"lr": settings.lr} | ({"fused": fused} if kind in FUSED else {})
    match kind:
        case OptimizerKind.SGD:
            return torch.optim.SGD(groups, **rate)
        case OptimizerKind.MOMENTUM | OptimizerKind.NESTEROV:
            nesterov = kind is OptimizerKind.NESTEROV
            return torch.optim.SGD(groups, momentum=settings.applied_momentum, nesterov=nesterov, **rate)
        case OptimizerKind.ADAM:
            return torch.optim.Adam(groups, **rate)
        case OptimizerKind.ADAMW:
            return torch.optim.AdamW(groups, **rate)
        case OptimizerKind.ADAGRAD:
            return torch.optim.Adagrad(groups, **rate)
        case OptimizerKind.RMSPROP:
            momentum, eps = settings.applied_momentum, settings.eps or 1e-8
            own = {"alpha": settings.alpha, "momentum": momentum, "centered": settings.centered, "eps": eps}
            return torch.optim.RMSprop(groups, **own, **rate)
        case OptimizerKind.ADADELTA:
            return torch.optim.Adadelta(groups, rho=settings.rho, eps=settings.eps or 1e-6, **rate)


class Server:
    """The optimizer with its bodies, as the server runs it."""

    def __init__(self, frame, values, settings):
        start = frame(values)
        self.frame, self.layout = frame, Layout.of(start.specs)
        self.chart, self.numbers = Chart(self.layout), values_of(self.layout, start.body)
        self.optimizer = Optimizer(settings, self.layout, self.numbers)

    @property
    def body(self):
        return self.numbers.body

    def step(self, gradients):
        new = values_of(self.layout)
        for span in self.layout.spans:
            if span.kind is not Kind.TRAINABLE:
                new.body.copy(self.body, span.offset_bytes, span.nbytes)
        before = bytes(self.body._bytes.numpy()), bytes(self.numbers._wide._bytes.numpy())
        rate = self.optimizer.step(self.numbers, new, self.wide(gradients))
        after = bytes(self.body._bytes.numpy()), bytes(self.numbers._wide._bytes.numpy())
        assert after == before, "the old values were written to"
        self.numbers = new
        return rate

    def wide(self, gradients):
        """The gradient as the optimizer takes it: float32 for half precision."""
        scratch = values_of(self.layout)
        return [
            Run(run.span, run.first, run.stop, scratch.flat(run).copy_(run.values))
            for run in self.chart.runs([self.frame(gradients)])
        ]

    @property
    def values(self):
        return {name: self.body.tensor(place).clone() for name, place in self.layout.places.items()}

    @property
    def precise(self):
        return {name: self.numbers.tensor(place).clone() for name, place in self.layout.places.items()}


def assert_same(found, expected, **tolerance):
    for name, tensor in expected.items():
        if tolerance:
            torch.testing.assert_close(found[name], tensor.detach(), **tolerance)
        else:
            assert torch.equal(found[name], tensor.detach()), name


@pytest.mark.parametrize("decay_vectors", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@every_variant
def test_bits_are_those_of_a_plain_loop(frame, fields, dtype, weight_decay, decay_vectors):
    settings = OptimizerSettings(**fields, lr=0.05, weight_decay=weight_decay, decay_vectors=decay_vectors)
    start, wide = model(dtype), torch.promote_types(dtype, torch.float32)
    parameters = {name: torch.nn.Parameter(tensor.to(wide, copy=True)) for name, tensor in start.items()}
    loop = plain(parameters, settings, fused=True)
    server = Server(frame, start, settings)
    for _ in range(5):
        gradients = model(dtype)
        for name, gradient in gradients.items():
            parameters[name].grad = gradient.to(wide, copy=True)
        loop.step()
        server.step(gradients)
        assert_same(server.values, {name: tensor.detach().to(dtype) for name, tensor in parameters.items()})
        assert_same(server.precise, parameters)


@every_variant
def test_torchs_default_implementation_differs_by_rounding_at_most(frame, fields):
    settings = OptimizerSettings(**fields, lr=0.05, weight_decay=0.1)
    start = model()
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    loop, server = plain(parameters, settings, fused=None), Server(frame, start, settings)
    for _ in range(10):
        gradients = model()
        for name, gradient in gradients.items():
            parameters[name].grad = gradient.clone()
        loop.step()
        server.step(gradients)
    if settings.kind in (OptimizerKind.SGD, RMSPROP, ADADELTA):
        assert_same(server.values, parameters)
    else:
        assert_same(server.values, parameters, rtol=1e-5, atol=1e-6)


@every_variant
def test_what_has_no_gradient_is_left_alone_state_and_count_too(frame, fields):
    settings = OptimizerSettings(**fields, lr=0.05, weight_decay=0.1)
    start = model() | {"bn.running_mean": torch.randn(3), "bn.count": torch.tensor(4)}
    parameters = {name: torch.nn.Parameter(start[name].clone()) for name in SHAPES}
    # torch's fused SGD raises on parameters that get their first gradient later than others.
    fused = None if settings.kind in (OptimizerKind.MOMENTUM, OptimizerKind.NESTEROV) else True
    tolerance = {} if fused else {"rtol": 1e-6, "atol": 1e-7}
    loop, server = plain(parameters, settings, fused=fused), Server(frame, start, settings)
    for sent in (["conv.bias"], SHAPES, ["fc.weight"], ["conv.bias", "conv.weight"], [], ["fc.weight", "norm.scale"]):
        gradients = {name: torch.randn(SHAPES[name]) for name in sent}
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone() if name in gradients else None
        loop.step()
        before = server.values
        server.step(gradients)
        assert_same(server.values, parameters, **tolerance)
        assert_same(server.values, {name: before[name] for name in before if name not in gradients})
    for name in ("bn.running_mean", "bn.count"):
        assert torch.equal(server.values[name], start[name])


def test_a_running_rmsprop_begins_and_ends_momentum_and_centering_with_zeros_like_plain_torch(frame):
    start = {"w": torch.randn(5, 3), "late": torch.randn(4, 4)}
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    settings = OptimizerSettings(RMSPROP, lr=0.05)
    loop, server = plain(parameters, settings, fused=None), Server(frame, start, settings)

    def step(*names):
        gradients = {name: torch.randn(start[name].shape) for name in names}
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone() if name in gradients else None
        loop.step()
        server.step(gradients)
        assert_same(server.values, parameters)

    def change(**fields):
        server.optimizer.configure(server.optimizer.settings.changed(fields))
        for group in loop.param_groups:
            group.update(momentum=server.optimizer.settings.applied_momentum, centered=fields["centered"])
        for parameter, state in loop.state.items():
            for name in ("momentum_buffer", "grad_avg"):
                state[name] = state.get(name, torch.zeros_like(parameter))

    step("w")
    change(momentum=0.9, centered=True)
    step("w")
    step("w", "late")
    change(momentum=None, centered=False)
    step("w", "late")
    assert {name.partition("/")[0] for name in server.optimizer.save()[0]} == {"step", "square_avg"}
    for state in loop.state.values():
        del state["momentum_buffer"], state["grad_avg"]
    change(momentum=0.9, centered=True)
    step("w")


@pytest.mark.parametrize("before", [{}, {"momentum": 0.9, "centered": True}], ids=["plain", "both"])
@pytest.mark.parametrize("after", [{}, {"momentum": 0.5}, {"centered": True}], ids=["plain", "momentum", "centered"])
def test_a_checkpoint_of_rmsprop_goes_on_under_other_settings(frame, before, after):
    first = Server(frame, {"w": torch.ones(3, 3)}, OptimizerSettings(RMSPROP, **before))
    first.step({"w": torch.randn(3, 3)})
    tensors, metadata = first.optimizer.save()
    second = Server(frame, first.values, OptimizerSettings(RMSPROP, **after))
    second.optimizer.load(tensors, metadata)
    first.optimizer.configure(second.optimizer.settings)
    for _ in range(3):
        gradients = {"w": torch.randn(3, 3)}
        first.step(gradients)
        second.step(gradients)
        assert_same(second.values, first.values)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_stays_zero(frame, kind):
    server = Server(frame, model(), OptimizerSettings(kind, lr=0.05, weight_decay=0.1))
    for _ in range(3):
        server.step(model())
    clean = frame(server.values)
    assert bytes(server.body._bytes.numpy()) == bytes(clean.body)


def test_the_schedule_counts_this_optimizers_steps(frame):
    settings = OptimizerSettings.read({"lr": 1.0, "warmup_steps": 4})
    server = Server(frame, model(), settings)
    rates = [server.step(model()) for _ in range(2)]
    server.optimizer.configure(settings.changed({"lr": 2.0}))
    rates += [server.step({}) for _ in range(3)]
    assert rates == [0.25, 0.5, 1.5, 2.0, 2.0]
    assert server.optimizer.steps == 5


@every_variant
def test_saved_and_loaded_it_goes_on_bit_by_bit(frame, fields):
    settings = OptimizerSettings(**fields, lr=0.05, warmup_steps=3)
    one = Server(frame, model(), settings)
    one.step({name: tensor for name, tensor in model().items() if name != "conv.bias"})
    one.step(model() if settings.kind is OptimizerKind.SGD else {"fc.weight": torch.randn(33, 7)})
    tensors, metadata = one.optimizer.save()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    two = Server(frame, one.values, settings)
    two.optimizer.load(tensors, metadata)
    for _ in range(3):
        gradients = model()
        assert one.step(gradients) == two.step(gradients)
        assert_same(two.values, one.values)
    assert all(torch.equal(tensors[name], saved[name]) for name in saved), "what was saved has changed"


def test_states_have_torchs_names(frame):
    server = Server(frame, {"w": torch.ones(2, 2)}, OptimizerSettings(OptimizerKind.ADAM))
    server.step({"w": torch.ones(2, 2)})
    tensors, metadata = server.optimizer.save()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "step/w": (),
        "exp_avg/w": (2, 2),
        "exp_avg_sq/w": (2, 2),
    }
    assert metadata["steps"] == 1
    assert OptimizerSettings.read(metadata["settings"]) == server.optimizer.settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "adam"}, "saved state is of optimizer 'adam', the server runs 'momentum'"),
        ({"exp_avg/w": torch.ones(2, 2)}, "'exp_avg/w' belongs to no parameter"),
        ({"momentum_buffer/v": torch.ones(2, 2)}, "'momentum_buffer/v' belongs to no parameter"),
        ({"momentum_buffer/w": torch.ones(2)}, "has shape (2,), it must be (2, 2)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(frame, changes, words):
    settings = OptimizerSettings(OptimizerKind.MOMENTUM)
    server = Server(frame, {"w": torch.ones(2, 2)}, settings)
    tensors, metadata = {}, {"steps": 1, "settings": {"kind": changes.pop("kind", "momentum")}}
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        server.optimizer.load(tensors | changes, metadata)
    assert words in str(raised.value)


def test_an_incomplete_state_is_refused(frame):
    server = Server(frame, {"w": torch.ones(2, 2)}, OptimizerSettings(OptimizerKind.ADAM))
    with pytest.raises(ValueError, match="lacks exp_avg, exp_avg_sq"):
        server.optimizer.load({"step/w": torch.tensor(1.0)}, {"settings": {"kind": "adam"}})


def test_the_kind_of_a_running_optimizer_stays(frame):
    settings = OptimizerSettings(OptimizerKind.ADAM)
    with pytest.raises(ValueError, match="kind is sgd; a running optimizer stays adam"):
        settings.reconfigured({"kind": "sgd"})
    with pytest.raises(AssertionError):
        Server(frame, model(), settings).optimizer.configure(OptimizerSettings())


def test_new_settings_keep_the_state(frame):
    settings = OptimizerSettings(OptimizerKind.MOMENTUM, lr=0.1)
    server = Server(frame, {"w": torch.zeros(1, 1)}, settings)
    server.step({"w": torch.ones(1, 1)})
    server.optimizer.configure(settings.changed({"lr": 1.0, "momentum": 0.5}))
    server.step({"w": torch.zeros(1, 1)})
    assert math.isclose(server.values["w"].item(), -0.1 - 0.5, rel_tol=1e-6)


@every_variant
def test_a_larger_layout_keeps_the_state_of_what_was_known(frame, fields):
    settings = OptimizerSettings(**fields, lr=0.05)
    start = model()
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    known = {name: tensor for name, tensor in start.items() if name != "fc.weight"}
    server = Server(frame, known, settings)
    fused = None if settings.kind in (OptimizerKind.MOMENTUM, OptimizerKind.NESTEROV) else True
    loop = plain(parameters, settings, fused=fused)
    for added in (False, True):
        if added:
            grown = frame(server.values | {"fc.weight": start["fc.weight"]})
            server.layout = Layout.of(grown.specs)
            server.numbers, server.chart = values_of(server.layout, grown.body), Chart(server.layout)
            server.optimizer.extend(server.layout, server.numbers)
        gradients = {name: torch.randn(shape) for name, shape in SHAPES.items() if added or name in known}
        for name, gradient in gradients.items():
            parameters[name].grad = gradient.clone()
        loop.step()
        server.step(gradients)
    assert_same(server.values, parameters, **({} if fused else {"rtol": 1e-6, "atol": 1e-7}))


def test_a_group_of_buffers_only(frame):
    for kind in KINDS:
        server = Server(frame, {"count": torch.tensor(3)}, OptimizerSettings(kind))
        server.step({})
        assert server.values["count"] == 3


def test_gradients_are_let_go_after_the_step(frame):
    for kind in KINDS:
        server = Server(frame, {"w": torch.zeros(4, 4)}, OptimizerSettings(kind))
        assert all(parameter.grad is None for parameter in server.optimizer._parameters.values())
        server.step({"w": torch.ones(4, 4)})
        assert all(parameter.grad is None for parameter in server.optimizer._parameters.values())
