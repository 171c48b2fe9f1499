import pytest
import torch

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.admission import check

MODEL = {"w": torch.zeros(2, 3), "b": torch.zeros(3), "bn.running_mean": torch.zeros(3)}


@pytest.fixture
def layout(frame):
    return Layout.of(frame(MODEL).specs)


def test_all_or_a_part_in_any_order_passes(frame, layout):
    check(layout, frame(MODEL))
    check(layout, frame({"b": MODEL["b"]}))
    check(layout, frame(MODEL, as_given=True))
    check(layout, frame({}))


def test_an_unknown_tensor_is_named(frame, layout):
    with pytest.raises(WireError, match="no tensor 'v'") as raised:
        check(layout, frame(MODEL | {"v": torch.zeros(1)}))
    assert raised.value.code is Code.UNKNOWN_TENSOR
    assert raised.value.facts == {"tensor": "v", "got": "v float32[1] trainable"}


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("w", torch.zeros(3, 2), "expected w float32[2,3] trainable, got w float32[3,2] trainable"),
        ("w", torch.zeros(2, 3).double(), "expected w float32[2,3] trainable, got w float64[2,3] trainable"),
        ("b", torch.zeros(3, dtype=torch.int32), "got b int32[3] integer-buffer"),
    ],
)
def test_another_shape_dtype_or_kind_is_named_with_what_was_expected(frame, layout, name, tensor, words):
    with pytest.raises(WireError) as raised:
        check(layout, frame(MODEL | {name: tensor}))
    assert raised.value.code is Code.WRONG_TENSOR
    assert raised.value.status == 422
    assert raised.value.facts["tensor"] == name
    assert words in raised.value.detail


def test_only_a_trainable_tensor_has_to_be_called_a_value(frame, layout):
    check(layout, frame(MODEL), ("w", "b"))
    with pytest.raises(
        WireError, match=r"'bn.running_mean' has kind float-buffer, which is a value in every push"
    ) as raised:
        check(layout, frame(MODEL), ("w", "bn.running_mean"))
    assert raised.value.code is Code.WRONG_TENSOR
    assert raised.value.facts["tensor"] == "bn.running_mean"
