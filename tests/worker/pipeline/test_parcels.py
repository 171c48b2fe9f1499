"""Any tensor that a layer may give comes out as it went in."""

import pytest
import torch

from leeway.protocol.decoder import decode
from leeway.protocol.frames import encode
from leeway.protocol.handovers import Direction, Handover, Label
from leeway.protocol.tensors import DTYPES
from leeway.worker.pipeline.neighbours import Handed
from leeway.worker.pipeline.parcels import Arrived, pack, unpack
from tests.protocol.test_handovers import read
from tests.worker.pipeline.stages import CALL, LIFE, handed, same

FORWARD, BACKWARD, SHARE = Direction


def label_of(one):
    return Label(LIFE, 1, 0 if one.direction is BACKWARD else 2, 5, one.direction, one.micro_batch)


def travelled(one, *, rounded=False):
    """As it comes out behind a frame's bytes."""
    parcel = pack(label_of(one), CALL, one, rounded=rounded)
    layout, buffers = parcel.tensors.layout, parcel.tensors.buffers
    frame = decode(b"".join(bytes(part) for part in encode(parcel.handover.to_fields(), layout, buffers)))
    handover = read(frame.message, label_of(one), frame.specs)
    assert handover == parcel.handover
    assert isinstance(handover, Handover)
    return unpack(Arrived(handover, frame))


VALUES = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 100.0]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", Direction)
def test_every_dtype_and_shape(direction, dtype):
    values = VALUES.to(getattr(torch, dtype))
    one = Handed(
        direction,
        0,
        2,
        6,
        {"matrix": values, "scalar": values[0, 1], "empty": values[:0], "odd": values[0, :1], "a": values},
    )
    assert same(travelled(one), one)


@pytest.mark.parametrize(
    "tensor",
    [
        VALUES.t(),
        VALUES[:, ::2],
        VALUES[0, 0].expand(4, 4),
        VALUES.flip(0),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ],
    ids=["transposed", "sliced", "expanded", "flipped", "channels last"],
)
def test_however_it_lies(tensor):
    assert same(travelled(handed(x=tensor)), handed(x=tensor))


def test_one_that_is_negated_by_a_bit():
    negated = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert negated.is_neg()
    assert torch.equal(travelled(handed(x=negated)).tensors["x"], torch.tensor([-2.0, 4.0]))


def test_in_whatever_mode_and_with_its_graph():
    leaf = torch.ones(3, requires_grad=True)
    received = travelled(handed(x=leaf * 2)).tensors["x"]
    assert not received.requires_grad
    with torch.inference_mode():
        inferred = torch.ones(3) * 2
        received = travelled(handed(x=inferred)).tensors["x"]
    assert not received.is_inference()
    received.requires_grad_().sum().backward()


def test_nothing_at_all():
    nothing = Handed(SHARE, 0, 0, 6, {})
    assert same(travelled(nothing), nothing)


def test_the_order_stays():
    one = handed(z=VALUES, b=torch.ones(2, dtype=torch.int64), a=torch.ones(1), m=VALUES.double())
    assert list(travelled(one).tensors) == ["z", "b", "a", "m"]


def test_what_is_rounded():
    tensors = {dtype: (VALUES / 3).to(getattr(torch, dtype)) for dtype in DTYPES}
    for direction in (FORWARD, BACKWARD):
        received = travelled(handed(direction, **tensors), rounded=True).tensors
        for dtype, tensor in tensors.items():
            wide = dtype in ("float32", "float64")
            assert torch.equal(received[dtype], tensor.bfloat16().to(tensor.dtype) if wide else tensor), dtype
    assert same(travelled(handed(SHARE, **tensors), rounded=True), handed(SHARE, **tensors))


def test_what_lies_ready_is_sent_from_there_but_for_shares():
    for direction, copied in ((FORWARD, False), (SHARE, True)):
        one = handed(direction, x=VALUES.clone())
        parcel = pack(label_of(one), CALL, one, rounded=False)
        before = bytes(parcel.tensors.buffers[0])
        one.tensors["x"].zero_()
        assert (bytes(parcel.tensors.buffers[0]) == before) is copied


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (
            torch.ones(2, dtype=torch.complex64),
            "stage 1 cannot hand over 'x', which is torch.complex64; what travels is",
        ),
        (torch.eye(2).to_sparse(), "stage 1 cannot hand over 'x', which is torch.sparse_coo; make it dense"),
    ],
)
def test_what_cannot_travel(tensor, words):
    with pytest.raises(ValueError, match=words):
        travelled(handed(x=tensor))
