import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.protocol.pushes import UpdateKind
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.arithmetic.aggregation.registry import rule
from leeway.ps.arithmetic.parameters import Parameters, Update
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings
from leeway.transport.memory.pool import Pool

WIDTH = 260  # large enough for the pool to recycle a body


def model():
    return {
        "fc.weight": torch.randn(WIDTH, WIDTH),
        "fc.bias": torch.randn(WIDTH),
        "bn.running_mean": torch.randn(3),
        "bn.running_var": torch.rand(3),
        "bn.num_batches_tracked": torch.tensor(0),
    }


def gradients():
    return {name: torch.randn_like(tensor) for name, tensor in model().items() if name.startswith("fc")}


@pytest.fixture(scope="session")
def started(frame):
    def start(config=None, values=None, **how):
        parameters = Parameters(config or OptimizerSettings(lr=0.1), Pool(), **how)
        offered = frame(values or model())
        parameters.versions.publish(parameters.offer(1, offered, {spec.name for spec in offered.specs}))
        return parameters

    return start


@pytest.fixture(scope="session")
def update(frame):
    def build(*parts, samples=1, kind=UpdateKind.GRADIENT):
        return Update(kind, samples, tuple(frame(part) for part in parts))

    return build


def arrive(parameters, update, live_workers=1):
    number = parameters.versions.current.number + 1
    step = parameters.step(number, [update], aggregated=False, live_workers=live_workers)
    parameters.versions.publish(step.snapshot)
    return step


def test_a_group_begins_empty(started):
    parameters = Parameters(OptimizerSettings(), Pool())
    assert parameters.versions.current.number == 0
    assert parameters.steps == 0


def test_an_offer_stores_the_named_tensors_and_keeps_the_others(frame, values, started):
    first = {"a": torch.randn(3, 3), "b": torch.randn(5)}
    parameters = started(values=first)
    arrive(parameters, Update(UpdateKind.GRADIENT, 1, (frame({"a": torch.ones(3, 3)}),)))
    known = values(parameters.versions.current)
    second = {"b": torch.zeros(5), "c": torch.randn(2, 2), "n": torch.tensor(7)}
    snapshot = parameters.offer(3, frame(second), {"c", "n"})
    assert parameters.versions.current.number == 2, "offering does not publish"
    found = values(snapshot)
    for name, tensor in (known | {"c": second["c"], "n": second["n"]}).items():
        assert torch.equal(found[name], tensor)
    assert bytes(snapshot.body) == bytes(frame(found).body), "the padding is zero"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [OptimizerKind.SGD, OptimizerKind.ADAM])
def test_a_file_is_adopted_under_other_names_and_kinds(started, update, values, dtype, kind):
    mask = torch.full((3, 3), -torch.inf).to(dtype)
    weight = torch.randn(4, 4).to(dtype)
    given = {"module.w": weight, "module.mask": mask, "module.twin": weight}
    parameters = started(OptimizerSettings(kind=kind, lr=0.5), values=given)
    specs = [
        TensorSpec("w", (4, 4), str(dtype).removeprefix("torch."), Kind.TRAINABLE),
        TensorSpec("mask", (3, 3), str(dtype).removeprefix("torch."), Kind.FLOAT_BUFFER),
    ]
    assert parameters.equal("module.w", "module.twin")
    assert not parameters.equal("module.w", "module.mask")
    snapshot = parameters.adopt(2, specs, {"w": "module.w", "mask": "module.mask"})
    parameters.versions.publish(snapshot)
    found = values(snapshot)
    assert torch.equal(found["w"], weight)
    assert torch.equal(found["mask"], mask)
    assert found.keys() == {"w", "mask"}
    assert snapshot.layout.places["mask"].spec.kind is Kind.FLOAT_BUFFER
    after = values(arrive(parameters, update({"w": torch.ones(4, 4).to(dtype)})).snapshot)
    assert not torch.equal(after["w"], weight)
    assert torch.equal(after["mask"], mask)


def test_a_step_on_arrival(started, update, values):
    parameters = started()
    before, sent = values(parameters.versions.current), gradients()
    step = arrive(parameters, update(sent))
    after = values(step.snapshot)
    assert (step.snapshot.number, step.learning_rate, step.gradient_norm) == (2, 0.1, None)
    for name, tensor in before.items():
        expected = tensor.add(sent[name], alpha=-0.1) if name in sent else tensor
        assert torch.equal(after[name], expected)


def test_parts_are_one_update(started, update):
    sent = gradients() | {"bn.running_mean": torch.ones(3)}
    start = model()
    whole, parts = started(values=start), started(values=start)
    arrive(whole, update(sent))
    arrive(parts, update({"fc.weight": sent["fc.weight"]}, {n: t for n, t in sent.items() if n != "fc.weight"}))
    assert bytes(whole.versions.current.body) == bytes(parts.versions.current.body)


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_a_round_is_a_step_over_the_joined_batch(started, update, values, kind):
    config = OptimizerSettings(kind, lr=0.01, weight_decay=0.01, clip_norm=5.0)
    start = model()
    one, many = started(config, start), started(config, start)
    for number in (2, 3, 4):
        sizes, sent = [3, 5, 8], [gradients() for _ in range(3)]
        joined = {n: sum(g[n] * (k / 16) for k, g in zip(sizes, sent, strict=True)) for n in sent[0]}
        arrive(one, update(joined))
        round_ = [update(g, samples=k) for k, g in zip(sizes, sent, strict=True)]
        step = many.step(number, round_, aggregated=True)
        many.versions.publish(step.snapshot)
        assert step.gradient_norm == pytest.approx(torch.cat([g.view(-1) for g in joined.values()]).norm().item())
    expected = values(one.versions.current)
    for name, tensor in values(many.versions.current).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def test_rounds_are_bit_identical_from_run_to_run(started, update):
    start, sent = model(), [gradients() for _ in range(8)]
    bodies = set()
    for _ in range(2):
        parameters = started(OptimizerSettings(OptimizerKind.ADAM, clip_norm=1.0), start)
        for number in (2, 3):
            round_ = [update(g, samples=k + 1) for k, g in enumerate(sent[4 * (number - 2) :][:4])]
            parameters.versions.publish(parameters.step(number, round_, aggregated=True).snapshot)
        bodies.add(bytes(parameters.versions.current.body))
    assert len(bodies) == 1


def test_clipping_acts_once_after_aggregation(started, update, values):
    start = {"w": torch.zeros(1, 2)}
    parameters = started(OptimizerSettings(lr=1.0, clip_norm=1.0), start)
    round_ = [update({"w": torch.tensor([[30.0, 0.0]])}), update({"w": torch.tensor([[0.0, 40.0]])})]
    step = parameters.step(2, round_, aggregated=True)
    assert step.gradient_norm == 25.0
    torch.testing.assert_close(values(step.snapshot)["w"], torch.tensor([[-0.6, -0.8]]))


@pytest.mark.parametrize("kind", [OptimizerKind.SGD, OptimizerKind.ADAM])
@pytest.mark.parametrize("aggregated", [True, False])
def test_measuring_the_norm_changes_nothing(started, update, kind, aggregated):
    start, sent = model(), gradients()
    updates = [update(sent, samples=samples) for samples in ((1, 1) if aggregated else (1,))]
    steps = [
        started(OptimizerSettings(kind), start).step(2, updates, aggregated=aggregated, measure_norm=measure)
        for measure in (False, True)
    ]
    assert bytes(steps[0].snapshot.body) == bytes(steps[1].snapshot.body)
    assert steps[0].gradient_norm is None
    total = torch.cat([sent[name].view(-1) for name in ("fc.weight", "fc.bias")]).norm().item()
    assert steps[1].gradient_norm == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("scale", "expected"), [(None, 0.25), (0.5, 0.5), (1.0, 1.0)])
def test_a_delta_is_scaled_on_arrival_and_subtracted(started, update, values, scale, expected):
    config = OptimizerSettings(lr=1.0, delta_scale=scale)
    parameters = started(config, {"w": torch.zeros(2, 2), "bn.running_mean": torch.zeros(2)}, workers=4)
    sent = update({"w": torch.ones(2, 2), "bn.running_mean": torch.ones(2)}, kind=UpdateKind.DELTA)
    found = values(arrive(parameters, sent, live_workers=2).snapshot)
    assert torch.equal(found["w"], torch.full((2, 2), -expected))
    assert torch.equal(found["bn.running_mean"], torch.full((2,), 0.5)), "a buffer is a value, never scaled so"


def test_an_aggregated_delta_is_federated_averaging(started, update, values):
    parameters = started(OptimizerSettings(lr=1.0), {"w": torch.full((1, 1), 10.0)}, workers=4)
    local = [(1, 7.0), (3, 11.0)]
    round_ = [update({"w": torch.full((1, 1), 10.0 - w)}, samples=n, kind=UpdateKind.DELTA) for n, w in local]
    found = values(parameters.step(2, round_, aggregated=True).snapshot)
    assert found["w"].item() == (7.0 + 3 * 11.0) / 4


def test_buffers_of_a_round(started, update, values):
    parameters = started()
    round_ = [
        update({"bn.running_mean": torch.full((3,), mean), "bn.num_batches_tracked": torch.tensor(count)}, samples=n)
        for n, mean, count in ((1, 0.0, 4), (3, 4.0, 9))
    ]
    before, found = values(parameters.versions.current), values(parameters.step(2, round_, aggregated=True).snapshot)
    assert torch.equal(found["bn.running_mean"], torch.full((3,), 3.0))
    assert found["bn.num_batches_tracked"] == 9
    for name in ("fc.weight", "fc.bias", "bn.running_var"):
        assert torch.equal(found[name], before[name])


def test_updates_are_not_written_to(started, update):
    parameters = started(OptimizerSettings(clip_norm=1e-3), workers=3)
    for kind in (UpdateKind.GRADIENT, UpdateKind.DELTA):
        sent = update(gradients(), kind=kind)
        before = bytes(sent.frames[0].body)
        arrive(parameters, sent)
        parameters.versions.publish(
            parameters.step(parameters.versions.current.number + 1, [sent, sent], aggregated=True).snapshot
        )
        assert bytes(sent.frames[0].body) == before


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(list(OptimizerKind)),
    st.lists(st.sampled_from(["arrive", "round", "read", "forget", "save"]), max_size=25),
)
def test_what_readers_hold_never_changes_and_memory_is_bounded(started, update, kind, script):
    pool = Pool()
    parameters = Parameters(OptimizerSettings(kind, lr=0.1), pool)
    start = update(model()).frames[0]
    parameters.versions.publish(parameters.offer(1, start, {spec.name for spec in start.specs}))
    held: list[tuple[memoryview, bytes]] = []
    for action in script:
        current = parameters.versions.current
        if action in ("arrive", "round") and parameters.versions.room:
            updates = [update(gradients()) for _ in range(1 if action == "arrive" else 2)]
            step = parameters.step(current.number + 1, updates, aggregated=action == "round")
            parameters.versions.publish(step.snapshot)
            del step
        elif action == "read":
            held.append((current.body[:10_000], bytes(current.body[:10_000])))
        elif action == "save":
            saved = parameters.save()
            held.append((saved.body, bytes(saved.body)))
            del saved
        elif held:
            del held[0]
        del current
        assert all(bytes(view) == copy for view, copy in held)
        assert parameters.versions.live <= 4
    held.clear()
    gc.collect()
    assert parameters.versions.live == 1


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_a_step_leaves_only_the_current_version_behind(started, update, kind):
    parameters = started(OptimizerSettings(kind))
    for _ in range(4):
        arrive(parameters, update(gradients()))
        assert (parameters.versions.live, parameters.versions.pinned()) == (1, ())


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_saved_and_restored_it_goes_on_bit_by_bit(started, update, kind):
    config = OptimizerSettings(kind, lr=0.1, warmup_steps=4)
    one = started(config)
    for _ in range(2):
        arrive(one, update(gradients()))
    saved = one.save()
    later = update(gradients() | {"bn.running_mean": torch.ones(3)})
    expected = arrive(one, later)
    two = Parameters(config, Pool())
    two.versions.publish(two.restore(saved))
    assert (two.versions.current.number, two.steps) == (3, 2)
    found = arrive(two, later)
    assert bytes(found.snapshot.body) == bytes(expected.snapshot.body)
    assert found.learning_rate == expected.learning_rate


def test_nothing_saved_is_nothing_restored():
    saved = Parameters(OptimizerSettings(), Pool()).save()
    assert Parameters(OptimizerSettings(), Pool()).restore(saved).number == 0


def test_settings_change_between_steps(started, update):
    parameters = started()
    parameters.configure(parameters.settings.changed({"lr": 0.5}))
    assert arrive(parameters, update(gradients())).learning_rate == 0.5


@pytest.mark.parametrize("written", ["mean", "median", "krum:1", "geometric-median"])
def test_a_round_goes_through_the_rule_of_the_group(started, update, values, written):
    parameters = started(OptimizerSettings(lr=1.0), rule=rule(written), values={"w": torch.zeros(2, 1)})
    sent = [update({"w": torch.tensor([[x], [y]]).float()}) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1), (10, 10))]
    found = values(parameters.step(2, sent, aggregated=True).snapshot)["w"]
    expected = {"mean": 2.4, "median": 1.0, "krum:1": 0.0, "geometric-median": 0.78868}[written]
    torch.testing.assert_close(found, torch.full((2, 1), -expected), rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", OptimizerKind)
@pytest.mark.parametrize("written", ["mean", "sum", "trimmed-mean:1", "krum:0"])
def test_whole_weights_are_the_deltas_that_they_make(started, update, values, kind, written):
    """Bit by bit; also where a worker does not send all of them."""
    first = started(OptimizerSettings(kind=kind, lr=0.5), rule=rule(written))
    start = values(first.versions.current)
    twin = Parameters(OptimizerSettings(kind=kind, lr=0.5), Pool(), rule=rule(written))
    twin.versions.publish(twin.restore(first.save()))
    for number in (2, 3):
        pulled = values(first.versions.current)
        local = [{name: pulled[name] + 0.1 * torch.randn_like(pulled[name]) for name in gradients()} for _ in range(3)]
        if number == 3:
            del local[1]["fc.weight"]
        models = [update(one, samples=n + 1, kind=UpdateKind.MODEL) for n, one in enumerate(local)]
        deltas = [
            update({name: pulled[name] - value for name, value in one.items()}, samples=n + 1, kind=UpdateKind.DELTA)
            for n, one in enumerate(local)
        ]
        for parameters, updates in ((first, models), (twin, deltas)):
            parameters.versions.publish(parameters.step(number, updates, aggregated=True).snapshot)
        assert bytes(first.versions.current.body) == bytes(twin.versions.current.body)
    assert not torch.equal(values(twin.versions.current)["fc.bias"], start["fc.bias"])


def test_whole_weights_that_have_not_moved_move_nothing(started, update, values):
    parameters = started(OptimizerSettings(lr=1.0), values={"w": torch.randn(7, 3)})
    pulled = values(parameters.versions.current)
    same = [update(pulled, samples=1, kind=UpdateKind.MODEL) for _ in range(3)]
    assert torch.equal(values(parameters.step(2, same, aggregated=True).snapshot)["w"], pulled["w"])


def test_federated_averaging_of_whole_weights(started, update, values):
    parameters = started(OptimizerSettings(lr=1.0), values={"w": torch.randn(7, 3)})
    local = [torch.randn(7, 3) for _ in range(3)]
    sent = [update({"w": one}, samples=n + 1, kind=UpdateKind.MODEL) for n, one in enumerate(local)]
    expected = sum((n + 1) / 6 * one for n, one in enumerate(local))
    torch.testing.assert_close(values(parameters.step(2, sent, aggregated=True).snapshot)["w"], expected)


# Values among the trainable tensors.


@pytest.mark.parametrize("kind", [UpdateKind.GRADIENT, UpdateKind.DELTA])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_a_value_is_set_and_nothing_else_sees_it(started, frame, values, kind, optimizer):
    model = {name: torch.randn(3, 2) for name in "abc"}
    settings = OptimizerSettings(OptimizerKind(optimizer), lr=0.1, weight_decay=0.1, clip_norm=1.0)
    with_value, without = started(settings, model, workers=2), started(settings, model, workers=2)
    sent = {"a": torch.randn(3, 2), "b": torch.full((3, 2), 100.0), "c": torch.randn(3, 2)}
    for _ in range(2):
        step = arrive(with_value, Update(kind, 1, (frame(sent),), frozenset("b")))
        plain = arrive(without, Update(kind, 1, (frame({name: sent[name] for name in "ac"}),)))
        assert step.gradient_norm == plain.gradient_norm
        found, expected = values(step.snapshot), values(plain.snapshot)
        assert torch.equal(found["b"], sent["b"])
        assert all(torch.equal(found[name], expected[name]) for name in "ac")


def test_of_several_values_the_first_in_order_is_taken(started, frame, values):
    parameters = started(values={name: torch.zeros(2, 2) for name in "abc"})
    first = Update(UpdateKind.GRADIENT, 1, (frame({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}),), frozenset("b"))
    both = {"a": torch.ones(2, 2), "b": torch.full((2, 2), 2.0), "c": torch.full((2, 2), 3.0)}
    second = Update(UpdateKind.GRADIENT, 3, (frame(both),), frozenset("bc"))
    third = Update(UpdateKind.GRADIENT, 4, (frame({"b": torch.full((2, 2), 8.0)}),))
    found = values(parameters.step(2, [first, second, third], aggregated=True).snapshot)
    # A gradient for what another sets is overwritten; one that nobody but them sent is the mean as ever.
    assert (found["b"] == 1).all()
    assert (found["c"] == 3).all()
    assert torch.allclose(found["a"], torch.full((2, 2), -0.05))


def test_an_update_of_values_alone(started, frame, values):
    parameters = started(values={"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)})
    step = arrive(parameters, Update(UpdateKind.GRADIENT, 1, (frame({"b": torch.ones(2, 2)}),), frozenset("b")))
    assert (values(step.snapshot)["a"] == 0).all()
    assert (values(step.snapshot)["b"] == 1).all()


def test_the_values_of_an_update_are_those_that_its_parts_name(frame):
    # As a checkpoint gives back what it held: the message is plain data.
    parts = [
        frame({"a": torch.zeros(1)}),
        frame({"b": torch.zeros(1), "c": torch.zeros(1)}),
        frame({"d": torch.zeros(1)}),
    ]
    parts[0].message["values"] = ["a"]
    parts[1].message["values"] = ["c"]
    assert Update.of(UpdateKind.DELTA, 2, tuple(parts)).values == {"a", "c"}
