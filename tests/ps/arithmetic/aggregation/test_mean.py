import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.aggregation.mean import Mean
from leeway.ps.arithmetic.runs import Chart
from leeway.ps.arithmetic.updates import BLOCK_ELEMENTS, Contribution, Updates
from tests.ps.arithmetic.computing import values_of

SHAPES = {"a": (3, 5), "b": (4, 4), "c": (2, 7), "d": (1, 1), "x": (3,), "y": (17,), "z": ()}


def model(dtype=torch.float32):
    return {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}


def gradient_of(contributions, scratch):
    updates, state = Mean().apply({}, Updates(contributions, scratch))
    assert not state
    return updates.gradient


@pytest.fixture(scope="session")
def mean(frame):
    """Aggregate (samples, tensors) pairs; the tensors by name, and the memory for what was computed."""

    def aggregate(contributions, dtype=torch.float32, **how):
        chart = Chart(Layout.of(frame(model(dtype)).specs))
        scratch = values_of(chart.layout)
        frames = [(samples, frame(tensors, **how)) for samples, tensors in contributions]
        before = [bytes(sent.body) for _, sent in frames]
        runs = gradient_of([Contribution(samples, chart.runs([sent])) for samples, sent in frames], lambda: scratch)
        assert [bytes(sent.body) for _, sent in frames] == before
        assert [(run.span.offset_bytes, run.first) for run in runs] == sorted(
            (run.span.offset_bytes, run.first) for run in runs
        )
        return {place.spec.name: tensor for run in runs for place, tensor in run.tensors()}

    return aggregate


def reference(contributions):
    total = sum(samples for samples, _ in contributions)
    found = {}
    for samples, tensors in contributions:
        for name, tensor in tensors.items():
            found[name] = found.get(name, 0) + tensor.double() * samples / total
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_the_sample_weighted_mean_and_a_missing_tensor_is_a_zero(mean, data):
    seed = data.draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    contributions = []
    for samples in data.draw(st.lists(st.integers(1, 100), min_size=1, max_size=4)):
        names = data.draw(st.lists(st.sampled_from(list(SHAPES)), unique=True))
        full = model()
        contributions.append((samples, {name: full[name] for name in names}))
    as_given = data.draw(st.booleans())
    found, expected = mean(contributions, as_given=as_given), reference(contributions)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_bits_do_not_depend_on_how_the_tensors_lie(mean):
    contributions = [(samples, model()) for samples in (3, 1, 7)]
    together, apart = (
        mean(contributions),
        mean([(n, dict(reversed(t.items()))) for n, t in contributions], as_given=True),
    )
    for name, tensor in together.items():
        expected = contributions[0][1][name] * (3 / 11)
        for samples, tensors in contributions[1:]:
            expected = expected.add(tensors[name], alpha=samples / 11)
        assert torch.equal(tensor, expected)
        assert torch.equal(tensor, apart[name])


def test_the_order_given_is_the_order_of_the_sum(mean):
    contributions = [(1, {"x": torch.full((3,), value)}) for value in (1e8, -1e8, 1.0)]
    for ordered in (contributions, contributions[::-1]):
        expected = ordered[0][1]["x"] * (1 / 3)
        for _, tensors in ordered[1:]:
            expected.add_(tensors["x"], alpha=1 / 3)
        assert torch.equal(mean(ordered)["x"], expected)
    assert not torch.equal(mean(contributions)["x"], mean(contributions[::-1])["x"])


def test_a_single_contribution_is_taken_as_it_is(mean):
    sent = model()
    found = mean([(5, sent)])
    assert all(torch.equal(found[name], sent[name]) for name in sent)


def test_a_skip_weighs_nothing(mean):
    sent = model()
    found = mean([(0, {}), (4, sent)])
    assert all(torch.equal(found[name], sent[name]) for name in sent)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(mean, dtype):
    contributions = [(samples, model(dtype)) for samples in (1, 2, 3, 4, 5)]
    found, expected = mean(contributions, dtype), reference(contributions)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name].float(), rtol=1e-5, atol=1e-6)


def test_half_precision_longer_than_a_block(frame):
    tensors = [{"w": torch.randn(BLOCK_ELEMENTS + 33, 1).bfloat16()} for _ in range(2)]
    chart = Chart(Layout.of(frame(tensors[0]).specs))
    scratch = values_of(chart.layout)
    contributions = [Contribution(1, chart.runs([frame(sent)])) for sent in tensors]
    ((_, found),) = gradient_of(contributions, lambda: scratch)[0].tensors()
    expected = 0.5 * tensors[0]["w"].float() + 0.5 * tensors[1]["w"].float()
    assert torch.equal(found, expected)


def test_nobody_with_samples_is_a_bug_of_the_caller():
    with pytest.raises(AssertionError, match="samples"):
        gradient_of([Contribution(0, [])], pytest.fail)
