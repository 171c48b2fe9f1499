import pytest
import torch

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.guards import GuardMode, Inspected, guard, non_finite, same_values

FINE = {"a": torch.randn(50, 3), "b": torch.randn(7), "c.running_var": torch.ones(4), "n": torch.tensor(3)}


def first_non_finite(sent):
    return next(non_finite(sent.places, Body(sent.body)), None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_one_bad_element_is_found_and_its_tensor_named(frame, value, name, dtype):
    tensors = {n: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for n, t in FINE.items()}
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[-1] = value
    bad = frame(tensors)
    assert first_non_finite(bad) == guard(bad, GuardMode.WARN).culprit == name
    assert guard(bad, GuardMode.OFF) == Inspected()
    with pytest.raises(WireError, match=f"tensor '{name}' has a NaN or an infinity") as raised:
        guard(bad, GuardMode.REFUSE)
    assert raised.value.code is Code.NON_FINITE
    assert raised.value.status == 422
    assert raised.value.facts == {"tensor": name}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_buffers_may_hold_what_they_like(frame, value, dtype):
    sent = frame(FINE | {"c.running_var": torch.tensor([1.0, value, 2.0]).to(dtype)})
    assert [guard(sent, mode).culprit for mode in GuardMode] == [None, None, None]
    bad = frame(FINE | {"c.running_var": torch.full((4,), value), "b": torch.tensor([1.0, value])})
    assert list(non_finite(bad.places, Body(bad.body))) == ["b"]


def test_all_that_are_not_finite_are_named(frame):
    nan = float("nan")
    bad = frame({"a": torch.tensor([[nan]]), "b": torch.ones(3), "c": torch.tensor(nan), "d": torch.tensor(nan).half()})
    assert sorted(non_finite(bad.places, Body(bad.body))) == ["a", "c", "d"]


def test_a_healthy_gradient_in_half_precision_is_no_suspicion(frame, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda self: pytest.fail("looked at closely"))
    assert first_non_finite(frame({"w": torch.full((500, 500), 60_000.0).half(), "v": torch.empty(0).half()})) is None


def test_finite_updates_pass(frame):
    assert guard(frame(FINE), GuardMode.REFUSE).culprit is None
    assert guard(frame({}), GuardMode.REFUSE) == Inspected()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_sum_that_overflows_is_only_a_suspicion(frame, dtype):
    largest = torch.full((8, 8), torch.finfo(dtype).max, dtype=dtype)
    assert first_non_finite(frame({"a": largest, "b": largest})) is None
    bad = largest.clone()
    bad[3, 3] = float("nan")
    assert first_non_finite(frame({"a": largest, "b": bad})) == "b"


def test_infinities_that_cancel_are_found(frame):
    assert first_non_finite(frame({"a": torch.tensor([float("inf"), float("-inf")])})) == "a"


def test_the_first_in_the_order_of_the_body_is_named(frame):
    nan = torch.full((2,), float("nan"))
    assert first_non_finite(frame({"z": nan, "b": nan}, as_given=True)) == "z"


def test_values_that_no_optimizer_touches_are_not_looked_at(frame):
    mask = {"a": torch.full((3, 3), -torch.inf), "b": torch.ones(2, 2)}
    assert guard(frame(mask), GuardMode.REFUSE, ("a",)).culprit is None
    with pytest.raises(WireError, match="tensor 'b'"):
        guard(frame(mask | {"b": torch.full((2, 2), torch.nan)}), GuardMode.REFUSE, ("a",))


class TestTheSame:
    """What is told of an update, so that the same one of another worker is known again."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    def test_the_same_values_have_the_same_numbers_whatever_the_buffers(self, frame, dtype):
        tensors = {"w": torch.randn(40, 3).to(dtype), "v": torch.randn(5)}
        one = frame(tensors | {"w.running_var": torch.ones(3)})
        other = frame(tensors | {"w.running_var": torch.zeros(3)})
        assert guard(one, GuardMode.REFUSE) == guard(other, GuardMode.REFUSE)
        assert same_values(one, other.body)

    def test_other_values_with_the_same_sum_are_told_apart(self, frame):
        one, other = (frame({"w": torch.tensor(values)}) for values in ([1.0, 2.0], [2.0, 1.0]))
        looked, again = guard(one, GuardMode.REFUSE), guard(other, GuardMode.REFUSE)
        assert looked.sums == again.sums
        assert looked.begins != again.begins
        assert not same_values(one, other.body)

    def test_elements_are_counted_without_buffers(self, frame):
        looked = guard(frame({"w": torch.ones(1), "n": torch.tensor([3, 4])}), GuardMode.REFUSE)
        assert looked.elements == 1
