"""Which tensors are the same memory: compared with the sets of the bytes that their elements lie in."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leeway.worker.modules.elements import Elements, overlap


def bytes_of(tensor):
    """The address of every byte, slow and obvious."""
    addresses = [tensor.data_ptr()]
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        addresses = [address + index * stride * tensor.itemsize for address in addresses for index in range(size)]
    return [address + byte for address in addresses for byte in range(tensor.itemsize)]


def found(*tensors):
    return overlap({str(index): Elements.of(tensor) for index, tensor in enumerate(tensors)})


def test_the_same_elements_in_the_same_layout_are_equal():
    matrix = torch.zeros(3, 4)
    assert Elements.of(matrix) == Elements.of(matrix[:]) == Elements.of(matrix.view(12).view(3, 4))
    assert Elements.of(matrix) != Elements.of(matrix.t())
    assert Elements.of(matrix) != Elements.of(matrix.view(4, 3))
    assert Elements.of(matrix) != Elements.of(matrix.view(torch.int32))
    assert Elements.of(matrix) != Elements.of(matrix.clone())
    conjugate = torch.zeros(3, dtype=torch.complex64).conj()
    assert Elements.of(conjugate.imag) != Elements.of(conjugate.conj().imag)
    # The stride of a dimension of one element means nothing.
    row = torch.zeros(1, 4)
    assert Elements.of(row) == Elements.of(row.as_strided((1, 4), (77, 1)))


WHOLE = torch.zeros(6, 8)


@pytest.mark.parametrize(
    "tensors",
    [
        (WHOLE[:3], WHOLE[3:]),
        (WHOLE[:, :4], WHOLE[:, 4:]),
        (WHOLE[::2], WHOLE[1::2]),
        (WHOLE[:, ::2], WHOLE[:, 1::2]),
        (WHOLE.t()[:3], WHOLE.t()[3:]),
        (WHOLE.view(torch.int16)[:, ::2], WHOLE.view(torch.int16)[:, 1::2]),
        (WHOLE.view(torch.int16)[:, 0:2], WHOLE[:, 1:3]),
        (WHOLE[:0], WHOLE),
        (torch.empty(0), torch.empty(0)),
        tuple(torch.nn.LSTM(3, 4).parameters()),
        (WHOLE[:, 0], WHOLE[:, 1], WHOLE[:, 2:5], WHOLE[:, 5:]),
    ],
)
def test_a_storage_in_common_is_no_overlap(tensors):
    assert found(*tensors) is None


@pytest.mark.parametrize(
    "tensors",
    [
        (WHOLE, WHOLE[2]),
        (WHOLE, WHOLE.t()),
        (WHOLE[:4], WHOLE[3:]),
        (WHOLE[:, :4], WHOLE[:, 3:]),
        (WHOLE[::2], WHOLE[:, 1]),
        (WHOLE.diagonal(), WHOLE[5]),
        (WHOLE.view(torch.int16)[:, 1:3], WHOLE[:, 1:3]),
        (WHOLE[:, 0], WHOLE[:, 2], WHOLE[5:, 1:]),
    ],
)
def test_elements_in_common(tensors):
    pair = found(*tensors)
    first, second = (tensors[int(index)] for index in pair)
    assert set(bytes_of(first)) & set(bytes_of(second))


MEMORY = torch.zeros(64, dtype=torch.uint8)


@st.composite
def views(draw):
    dtype = draw(st.sampled_from([torch.uint8, torch.int16, torch.float32]))
    room = MEMORY.view(dtype).numel()
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    strides = draw(st.lists(st.integers(0, 7), min_size=len(shape), max_size=len(shape)))
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if size)
    offset = draw(st.integers(0, max(room - 1 - reach, 0)))
    if offset + reach >= room:
        shape, strides = [], []
    return MEMORY.view(dtype).as_strided(shape, strides, offset)


@given(st.lists(views(), min_size=1, max_size=4))
def test_any_views_of_a_memory(tensors):
    for tensor in tensors:
        if tensor.numel():
            addresses = bytes_of(tensor)
            assert Elements.of(tensor).repeats == (len(set(addresses)) < len(addresses))
    apart = [tensor for tensor in tensors if not tensor.numel() or not Elements.of(tensor).repeats]
    sets = [set(bytes_of(tensor)) for tensor in apart]
    expected = any(one & other for index, one in enumerate(sets) for other in sets[:index])
    pair = found(*apart)
    assert (pair is not None) is expected
    if pair:
        first, second = map(int, pair)
        assert sets[first] & sets[second]


def test_large_tensors_side_by_side_cost_no_marks():
    whole = torch.empty(1 << 16, 64)
    assert found(*whole.split(1 << 12)) is None
    assert found(whole[:, :32], whole[:, 32:]) is None
    assert found(whole[:, :33], whole[:, 32:]) == ("0", "1")
