"""What is trained in float16 and bfloat16 is trained in float32, and published rounded."""

import pytest
import torch

from leeway.protocol.pushes import UpdateKind
from leeway.ps.arithmetic.parameters import Parameters, Saved, Update
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings
from leeway.transport.memory.pool import Pool

HALVES = [torch.float16, torch.bfloat16]
KINDS = list(OptimizerKind)
EMBEDDING, HEAD = "embedding.weight", "head.weight"


def start(dtype):
    return {EMBEDDING: torch.randn(30, 8).to(dtype), "bias": torch.randn(8).to(dtype), HEAD: torch.randn(8, 4)}


@pytest.fixture(scope="session")
def group(frame):
    def build(tensors, workers=1, **fields):
        parameters = Parameters(OptimizerSettings.read(fields), Pool(), workers=workers)
        offer(parameters, frame(tensors))
        return parameters

    return build


def offer(parameters, offered):
    number = parameters.versions.current.number + 1
    parameters.versions.publish(parameters.offer(number, offered, {spec.name for spec in offered.specs}))


def step(parameters, *updates, **how):
    number = parameters.versions.current.number + 1
    made = parameters.step(number, updates, aggregated=len(updates) > 1, **how)
    parameters.versions.publish(made.snapshot)
    return made


@pytest.fixture(scope="session")
def update(frame):
    def build(tensors, samples=1, kind=UpdateKind.GRADIENT):
        return Update(kind, samples, (frame(tensors),))

    return build


def wide(tensors):
    return {name: tensor.float() for name, tensor in tensors.items()}


def assert_is_rounded(parameters, twin, values):
    """The half-precision group publishes what its float32 twin has, rounded."""
    found, expected = values(parameters.versions.current), values(twin.versions.current)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name
    masters = parameters.save().masters
    assert masters.keys() == {name for name, tensor in found.items() if tensor.dtype in HALVES}
    for name, master in masters.items():
        assert torch.equal(master, expected[name]), name


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_as_in_float32_and_is_published_rounded(group, update, values, dtype, kind):
    fields = {"kind": kind, "lr": 0.01, "weight_decay": 0.01}
    tensors = start(dtype)
    parameters, twin = group(tensors, **fields), group(wide(tensors), **fields)
    for number in range(6):
        sent = start(dtype)
        if number == 2:  # a part of the model alone: the others stay, masters too
            del sent["bias"]
        rounds = 1 + number % 2
        for one, convert in ((parameters, dict), (twin, wide)):
            step(one, *[update(convert(sent), samples=k + 1) for k in range(rounds)])
        assert_is_rounded(parameters, twin, values)


@pytest.mark.parametrize("dtype", HALVES)
def test_clipping_is_that_of_float32(group, update, values, dtype):
    fields = {"lr": 1.0, "clip_norm": 0.1}
    tensors, sent = start(dtype), start(dtype)
    parameters, twin = group(tensors, **fields), group(wide(tensors), **fields)
    made, expected = step(parameters, update(sent)), step(twin, update(wide(sent)))
    # The tensors lie in another order, and norms are summed in theirs.
    assert made.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-6)
    for name, master in parameters.save().masters.items():
        torch.testing.assert_close(master, values(expected.snapshot)[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_small_steps_add_up(group, update, values, dtype, kind):
    # Adadelta's own steps begin tiny.
    rate = 0.1 if kind is OptimizerKind.ADADELTA else 1e-4
    parameters = group({"w": torch.ones(2, 2).to(dtype)}, kind=kind, lr=rate)
    for _ in range(400):
        step(parameters, update({"w": torch.ones(2, 2).to(dtype)}))
    assert (values(parameters.versions.current)["w"] < 1.0).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [0.0, 1e-4, 1.0])
@pytest.mark.parametrize("kind", [OptimizerKind.ADAM, OptimizerKind.ADAMW, OptimizerKind.ADAGRAD])
def test_adaptive_rates_do_not_divide_by_zero(group, update, values, dtype, size, kind):
    parameters = group({"w": torch.ones(2, 2).to(dtype)}, kind=kind, lr=0.1)
    made = step(parameters, update({"w": torch.full((2, 2), size).to(dtype)}))
    expected = 0.9 if size else 1.0
    torch.testing.assert_close(values(made.snapshot)["w"].float(), torch.full((2, 2), expected), rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_delta_is_scaled_in_float32(group, update, values, dtype):
    # A tenth of the smallest float16 is nothing; ten of them are one.
    small = 2.0**-24 if dtype is torch.float16 else 2.0**-133
    parameters = group({"w": torch.zeros(2, 2).to(dtype)}, workers=10, lr=1.0)
    for _ in range(10):
        step(parameters, update({"w": torch.full((2, 2), small).to(dtype)}, kind=UpdateKind.DELTA))
    assert (values(parameters.versions.current)["w"] != 0).all()


def test_the_norm_and_clipping_do_not_overflow(group, update, values):
    parameters = group({"w": torch.zeros(100, 100).half()}, lr=1.0, clip_norm=100.0)
    made = step(parameters, update({"w": torch.full((100, 100), 60_000.0).half()}))
    assert made.gradient_norm == pytest.approx(6e6, rel=1e-4)
    torch.testing.assert_close(values(made.snapshot)["w"], torch.full((100, 100), -1.0).half())
    measured = group({"w": torch.zeros(100, 100).half()}, lr=0.0)
    assert step(measured, update({"w": torch.full((100, 100), 60_000.0).half()}), measure_norm=True).gradient_norm == (
        pytest.approx(6e6, rel=1e-4)
    )


def test_a_round_of_what_is_too_small_for_half_precision(group, update, values):
    smallest = torch.full((1, 1), 2.0**-24).half()
    parameters = group({"w": torch.zeros(1, 1).half()}, lr=2.0)
    step(parameters, update({"w": smallest}), update({}))  # a mean of half the smallest number
    assert values(parameters.versions.current)["w"].item() == -(2.0**-24)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_come_later_leave_the_masters_of_the_others(group, frame, update, values, dtype, kind):
    fields = {"kind": kind, "lr": 1e-3}
    tensors = start(dtype)
    later = {"a.later": torch.randn(3, 3).to(dtype), "z.later": torch.randn(2, 2)}
    parameters, twin = group(tensors, **fields), group(wide(tensors), **fields)
    for one, convert in ((parameters, dict), (twin, wide)):
        torch.manual_seed(3)
        step(one, update(convert(start(dtype))))
        offer(one, frame(convert(later)))
        step(one, update(convert(start(dtype) | {name: torch.randn_like(tensor) for name, tensor in later.items()})))
        one.configure(one.settings.changed({"lr": 2e-3, "weight_decay": 0.1}))
        step(one, update(convert(start(dtype))))
    assert_is_rounded(parameters, twin, values)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_restored_it_goes_on_bit_by_bit_masters_too(group, update, dtype, kind):
    one = group(start(dtype), kind=kind, lr=1e-3)
    for _ in range(3):
        step(one, update(start(dtype)))
    two = Parameters(one.settings, Pool())
    two.versions.publish(two.restore(one.save()))
    for _ in range(3):
        sent = update(start(dtype))
        assert bytes(step(one, sent).snapshot.body) == bytes(step(two, sent).snapshot.body)
        saved, again = one.save(), two.save()
        assert all(torch.equal(saved.masters[name], again.masters[name]) for name in saved.masters)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_without_masters_goes_on_from_the_values(group, update, values, dtype, kind):
    one = group(start(dtype), kind=kind, lr=1e-3)
    step(one, update(start(dtype)))
    saved = one.save()
    # As it was written then: states as narrow as the parameter, but for the count.
    states = {
        name: tensor if name.startswith("step/") or name.endswith(HEAD) else tensor.to(dtype)
        for name, tensor in saved.optimizer_tensors.items()
    }
    old = Saved(saved.number, saved.layout, saved.body, states, saved.optimizer)
    two = Parameters(one.settings, Pool())
    two.versions.publish(two.restore(old))
    assert bytes(two.versions.current.body) == bytes(saved.body)
    for name, master in two.save().masters.items():
        assert torch.equal(master, values(saved)[name].float())
    assert all(tensor.dtype is torch.float32 for tensor in two.save().optimizer_tensors.values())
    made = step(two, update(start(dtype)))
    assert made.snapshot.non_finite == ()


@pytest.mark.parametrize(
    "masters", [{"w": torch.ones(3)}, {"v": torch.ones(2, 2)}, {HEAD: torch.ones(8, 4)}], ids=["shape", "name", "wide"]
)
def test_masters_of_another_model_are_refused(group, masters):
    saved = group({"w": torch.ones(2, 2).half(), HEAD: torch.ones(8, 4)}).save()
    wrong = Saved(saved.number, saved.layout, saved.body, {}, saved.optimizer, masters)
    with pytest.raises(ValueError, match="belongs to no half-precision parameter"):
        Parameters(OptimizerSettings(), Pool()).restore(wrong)


def test_a_version_says_what_of_it_is_not_finite(group, update, frame):
    tensors = {"a": torch.zeros(2, 2).half(), "b": torch.zeros(2), "c.running_mean": torch.tensor([float("inf")])}
    parameters = group(tensors, lr=100.0)
    assert parameters.versions.current.non_finite == ()
    # Beyond what float16 can hold, and not beyond its master.
    assert step(parameters, update({"a": torch.full((2, 2), 1000.0).half()})).snapshot.non_finite == ("a",)
    assert step(parameters, update({"a": torch.full((2, 2), -900.0).half()})).snapshot.non_finite == ()
    made = step(parameters, update({"b": torch.tensor([float("nan"), 1.0])}))
    assert made.snapshot.non_finite == ("b",)
    again = Parameters(parameters.settings, Pool())
    assert again.restore(parameters.save()).non_finite == ("b",)
    offered = frame({"d": torch.tensor([[float("-inf")]])})
    assert parameters.offer(made.snapshot.number + 1, offered, {"d"}).non_finite == ("d", "b")


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_value_sets_the_master_too(group, frame, values, kind, dtype):
    parameters = group(start(dtype), kind=kind, lr=0.001)
    step(parameters, Update(UpdateKind.GRADIENT, 1, (frame({EMBEDDING: torch.ones(30, 8, dtype=dtype)}),)))
    value = torch.randn(30, 8).to(dtype)
    step(parameters, Update(UpdateKind.GRADIENT, 1, (frame({EMBEDDING: value}),), frozenset({EMBEDDING})))
    assert torch.equal(values(parameters.versions.current)[EMBEDDING], value)
    assert torch.equal(parameters.save().masters[EMBEDDING], value.float())
    # The next step goes on from it.
    step(parameters, Update(UpdateKind.GRADIENT, 1, (frame({"bias": torch.ones(8, dtype=dtype)}),)))
    assert torch.equal(values(parameters.versions.current)[EMBEDDING], value)
