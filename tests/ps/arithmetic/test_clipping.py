import pytest
import torch

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.clipping import clip, norm, scale
from leeway.ps.arithmetic.runs import Chart
from tests.ps.arithmetic.computing import values_of


@pytest.fixture(scope="session")
def gradient(frame):
    """Runs of a gradient, a place to compute in, and the untouched update."""

    def build(tensors, **how):
        sent = frame(tensors, **how)
        layout = Layout.of(sent.specs)
        scratch = values_of(layout)
        return Chart(layout).runs([sent]), lambda: scratch, sent

    return build


def tensors_of(dtype=torch.float32):
    return {
        name: torch.randn(shape).to(dtype)
        for name, shape in {"a.weight": (30, 17), "b.weight": (5, 5), "a.bias": (30,), "b.scale": ()}.items()
    }


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("as_given", [False, True])
def test_bits_are_those_of_torch(gradient, max_norm, dtype, as_given):
    tensors = tensors_of(dtype)
    runs, scratch, sent = gradient(tensors, as_given=as_given)
    before = bytes(sent.body)
    parameters = []
    for run in runs:
        for place, values in run.tensors():
            parameter = torch.nn.Parameter(torch.empty(place.spec.shape, dtype=dtype))
            parameter.grad = values.clone()
            parameters.append(parameter)
    expected_norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    assert norm(runs) == expected_norm.item()
    clipped, found_norm = clip(runs, max_norm, scratch)
    found = [values for run in clipped for _, values in run.tensors()]
    assert found_norm == expected_norm.item()
    assert all(torch.equal(a, b.grad) for a, b in zip(found, parameters, strict=True))
    assert bytes(sent.body) == before


def test_a_short_gradient_is_not_copied(gradient):
    runs, _, _ = gradient(tensors_of())
    clipped, _ = clip(runs, 1e6, lambda: pytest.fail("no scratch is needed"))
    assert clipped == runs


def test_nothing_has_no_norm(gradient):
    assert clip([], 1.0, gradient) == ([], 0.0)
    assert norm([]) == 0.0


def test_scaling_may_work_in_its_own_scratch(gradient):
    tensors = tensors_of()
    runs, scratch, _ = gradient(tensors)
    twice = scale(scale(runs, 0.5, scratch), 0.5, scratch)
    for run in twice:
        for place, values in run.tensors():
            assert torch.equal(values, tensors[place.spec.name] * 0.25)


@pytest.mark.parametrize("size", [1e19, 1e25, 3e38])
def test_a_norm_that_float32_cannot_hold_still_clips(gradient, size):
    runs, scratch, _ = gradient({"w": torch.full((4,), size)})
    ((clipped,), total) = clip(runs, 1.0, scratch)
    assert total == pytest.approx(2 * size, rel=1e-6)
    ((_, values),) = clipped.tensors()
    assert values.tolist() == pytest.approx([0.5] * 4, rel=0.01)
