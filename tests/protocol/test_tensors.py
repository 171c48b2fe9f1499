from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from leeway.errors import MalformedRequest
from leeway.protocol.limits import MAX_NAME, MAX_NDIM, MAX_TENSOR_BYTES
from leeway.protocol.tensors import ALIGNMENT_BYTES, DTYPES, Kind, TensorSpec, aligned


def spec(name="w", shape=(2, 3), dtype="float32", kind=Kind.TRAINABLE):
    return TensorSpec(name, shape, dtype, kind)


@given(st.integers(0, 2**70))
def test_aligned_is_the_next_multiple(nbytes):
    assert aligned(nbytes) % ALIGNMENT_BYTES == 0
    assert nbytes <= aligned(nbytes) < nbytes + ALIGNMENT_BYTES


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_the_dtype_table_agrees_with_torch_numpy_and_safetensors(dtype):
    torch_dtype = getattr(torch, dtype.name)
    assert torch_dtype.itemsize == dtype.itemsize
    assert torch_dtype.is_floating_point is dtype.floating
    assert ALIGNMENT_BYTES % dtype.itemsize == 0
    if dtype.name == "bfloat16":
        assert dtype.numpy_descr is None
    else:
        assert np.dtype(dtype.numpy_descr) == np.dtype(dtype.name)
        assert np.dtype(dtype.numpy_descr).itemsize == dtype.itemsize
    file = safetensors.torch.save({"t": torch.zeros(1, dtype=torch_dtype)})
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    assert header["t"]["dtype"] == dtype.safetensors_code


def test_the_dtype_table_cannot_be_changed():
    with pytest.raises(TypeError):
        DTYPES["complex64"] = DTYPES["float32"]


def test_kinds_are_listed_in_body_order():
    assert list(Kind) == ["trainable", "float-buffer", "integer-buffer"]


def test_an_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match="unknown kind 'frozen'; it must be one of trainable, float-buffer, integer-buffer",
    ):
        Kind("frozen")


@pytest.mark.parametrize(
    ("shape", "dtype", "elements", "nbytes", "text"),
    [
        ((200, 784), "float32", 156_800, 627_200, "w float32[200,784]"),
        ((), "float64", 1, 8, "w float64[]"),
        ((5,), "bfloat16", 5, 10, "w bfloat16[5]"),
        ((4, 0, 2), "float16", 0, 0, "w float16[4,0,2]"),
    ],
)
def test_sizes_and_text(shape, dtype, elements, nbytes, text):
    tensor = spec(shape=shape, dtype=dtype)
    assert (tensor.elements, tensor.nbytes, str(tensor)) == (elements, nbytes, text)


@pytest.mark.parametrize("name", ["w", "a b", "größe.重み", "n" * MAX_NAME])
def test_good_names(name):
    assert spec(name).name == name


@pytest.mark.parametrize("name", ["", "a\n", "a\tb", "\x00", "\ud800", "n" * (MAX_NAME + 1)])
def test_bad_names(name):
    with pytest.raises(ValueError, match=rf"tensor name .* is not one of 1 to {MAX_NAME} printable ones"):
        spec(name)


def test_a_long_bad_name_is_not_repeated_in_full():
    with pytest.raises(ValueError, match=r"tensor name 'nnn") as caught:
        spec("n" * 1_000_000)
    assert "1000000 characters" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_unknown_dtype():
    with pytest.raises(ValueError, match="w: unknown dtype 'complex64'; it must be one of float32, "):
        spec(dtype="complex64")


@pytest.mark.parametrize("size", [-1, True, 1.0, "1", None, np.int64(3)])
def test_bad_dimensions(size):
    with pytest.raises(ValueError, match=r"w: dimension .* is not an integer >= 0"):
        spec(shape=(2, size))


def test_dimensions_are_counted():
    assert spec(shape=(1,) * MAX_NDIM).elements == 1
    with pytest.raises(ValueError, match=f"w: {MAX_NDIM + 1} dimensions; the limit is {MAX_NDIM}"):
        spec(shape=(1,) * (MAX_NDIM + 1))


@pytest.mark.parametrize("shape", [(2**61,), (0, 2**31, 2**30), (2**31, 2**30, 0)])
def test_strides_must_fit_63_bits_even_without_elements(shape):
    with pytest.raises(ValueError, match=f"takes more than {MAX_TENSOR_BYTES} bytes"):
        spec(shape=shape)


@pytest.mark.parametrize("shape", [(2**60,), (0, 2**30, 2**30)])
def test_the_largest_strides_are_taken(shape):
    assert spec(shape=shape).shape == shape


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("kind", Kind)
def test_the_kind_fits_the_dtype(kind, dtype):
    if dtype.floating == (kind is not Kind.INTEGER_BUFFER):
        assert spec(dtype=dtype.name, kind=kind).kind is kind
    else:
        wanted = "an integer or bool" if dtype.floating else "a floating"
        with pytest.raises(ValueError, match=f"w: kind {kind} needs {wanted} dtype, not {dtype.name}"):
            spec(dtype=dtype.name, kind=kind)


def test_a_row_is_plain_data_and_reads_back():
    tensor = spec("bn.num_batches_tracked", (), "int64", Kind.INTEGER_BUFFER)
    row = tensor.to_row()
    assert row == ["bn.num_batches_tracked", "int64", "integer-buffer", []]
    assert [type(cell) for cell in row] == [str, str, str, list]
    assert TensorSpec.read(json.loads(json.dumps(row))) == tensor


@pytest.mark.parametrize(
    "row",
    [
        None,
        {},
        [],
        ["w", "float32", "trainable"],
        ["w", "float32", "trainable", [2], 0],
        [1, "float32", "trainable", [2]],
        ["w", ["float32"], "trainable", [2]],
        ["w", "float32", {}, [2]],
        ["w", "float32", "trainable", "2"],
    ],
)
def test_what_is_no_row(row):
    with pytest.raises(MalformedRequest, match=r"is not \[name, dtype, kind, shape\]"):
        TensorSpec.read(row)


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        (["w", "float32", "frozen", [2]], "unknown kind 'frozen'"),
        (["w", "float32", "trainable", [[2]]], r"w: dimension \[2\]"),
        (["w", "int8", "trainable", [2]], "w: kind trainable needs a floating dtype, not int8"),
    ],
)
def test_a_row_that_is_no_tensor(row, detail):
    with pytest.raises(MalformedRequest, match=detail):
        TensorSpec.read(row)


def test_what_a_safetensors_file_cannot_hold_is_no_name():
    with pytest.raises(ValueError, match="cannot be called '__metadata__'"):
        TensorSpec("__metadata__", (3,), "float32", Kind.TRAINABLE)
    # One that only looks like it is a name as any other.
    assert TensorSpec("__metadata__.weight", (3,), "float32", Kind.TRAINABLE)
