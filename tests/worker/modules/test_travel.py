"""Tensors that cannot travel are refused by name, with what to do; what only looks special can."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from leeway.worker.modules.travel import spec_of
from leeway.worker.modules.view import View


class Logging(torch.Tensor):
    """A subclass that takes part in every operation."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapped(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(func)


def resized():
    tensor = torch.zeros(4)
    tensor.untyped_storage().resize_(0)
    return tensor


def shrunk():
    tensor = torch.zeros(8)[4:]
    tensor.untyped_storage().resize_(16)
    return tensor


def kept_of(transform):
    kept = []
    transform(lambda value: (kept.append(value), value.sum())[1])(torch.zeros(2, 3))
    return kept[0]


def fake():
    with FakeTensorMode():
        return torch.zeros(2)


def nested(layout):
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nested(torch.strided), r"is nested: .*to_padded_tensor\(0.0\)"),
        (lambda: nested(torch.jagged), r"is nested: .*to_padded_tensor\(0.0\)"),
        (lambda: kept_of(torch.func.vmap), "is a value of a transform"),
        (lambda: kept_of(torch.func.grad), "is a value of a transform"),
        (lambda: torch._to_functional_tensor(torch.zeros(2)), "is a value of a transform"),
        (lambda: torch._efficientzerotensor((2,)), "is a zero without memory"),
        (fake, "is a FakeTensor, which keeps"),
        (lambda: torch.eye(2).to_sparse_csr(), "is torch.sparse_csr; make it dense"),
        (lambda: torch.eye(4).to_sparse_bsc((2, 2)), "is torch.sparse_bsc; make it dense"),
        (lambda: torch.zeros(2, 2).to_mkldnn(), "is torch._mkldnn; make it dense"),
        (lambda: torch.zeros(2, dtype=torch.complex64).conj(), "is torch.complex64"),
        (lambda: torch.zeros(1, 3).expand(2, 3), "is expanded.*clone"),
        (lambda: torch.zeros(1).expand(5), "is expanded"),
        (lambda: torch.zeros(6).as_strided((3, 4), (1, 1)), "is expanded"),
        (lambda: torch.zeros(2, 3).to_sparse(), "is torch.sparse_coo; make it dense"),
        (lambda: torch.zeros(2, 3, device="meta"), "is on the meta device.*to_empty"),
        (resized, "has no memory: its storage has 0 bytes and it needs 16"),
        (shrunk, "has no memory: its storage has 16 bytes and it needs 32"),
        (lambda: torch.zeros(2, dtype=torch.complex64), "is torch.complex64; what travels is float32.*view_as_real"),
        (lambda: torch.zeros(2).to(torch.float8_e5m2), "is torch.float8_e5m2; .*convert it"),
        (lambda: Wrapped(torch.zeros(2)), "is a Wrapped, which keeps its values in another form"),
        (lambda: torch.zeros(2).as_subclass(Logging), "is a Logging, which"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_travel(make, words):
    model = nn.Linear(3, 2)
    model.register_buffer("state", make())
    with pytest.raises(ValueError, match=f"^state {words}.*exclude=\\['state'\\]"):
        View(model)
    assert len(View(model, "state").specs) == 2
    # What is put there after attach is looked at in the same way.
    model.state = torch.zeros(2)
    view = View(model)
    model.state = make()
    with pytest.raises(ValueError, match=f"^state .*{words}"):
        view.look()
    del model._buffers["state"]
    view = View(model)
    model.register_buffer("state", make())
    with pytest.raises(ValueError, match=r"state .* is new"):
        view.look()


def test_what_has_no_values_yet_is_described_where_they_will_come():
    weight = torch.nn.Parameter(torch.zeros(2, 3, device="meta"))
    assert spec_of("weight", weight, on_meta=True) == spec_of("weight", torch.nn.Parameter(torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="is on the meta device"):
        spec_of("weight", weight)
    with pytest.raises(ValueError, match=r"is torch\.complex64"):
        spec_of("weight", torch.zeros(2, device="meta", dtype=torch.complex64), on_meta=True)


def test_a_kind_that_nobody_has_thought_of(monkeypatch):
    def refuse(tensor):
        raise NotImplementedError("no address\nand more")

    monkeypatch.setattr("leeway.worker.modules.travel.Elements.of", refuse)
    words = r"^weight is no plain tensor with memory of its own \(no address\); make it one.*exclude=\['weight'\]"
    with pytest.raises(ValueError, match=words):
        spec_of("weight", torch.zeros(2))


@pytest.mark.filterwarnings("ignore")
def test_quantized():
    with pytest.raises(ValueError, match=r"^q is torch\.quint8; .*dequantize"):
        spec_of("q", torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.quint8))


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_tensor(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = distribute_module(nn.Linear(3, 2), init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match=r"^weight is a DTensor, .*full_tensor\(\)"):
            View(model)
    finally:
        torch.distributed.destroy_process_group()


def test_lazy():
    with pytest.raises(ValueError, match=r"^weight has no shape yet; run one forward pass"):
        View(nn.LazyLinear(3))


class Scaled(nn.Parameter):
    """A subclass that adds an attribute, as libraries have them."""

    scale = 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scaled(torch.zeros(2, 3)),
        lambda: nn.Parameter(torch.zeros(3, 2).t()),
        lambda: nn.Parameter(torch.zeros(4, 6)[::2, ::2]),
        lambda: nn.Parameter(torch.zeros(2, 3, 1, 1).expand(2, 3, 1, 1)),
        lambda: nn.Parameter(torch.zeros(0, 3).expand(0, 3)),
        lambda: nn.Parameter(torch.zeros(())),
    ],
)
def test_what_can(make):
    model = nn.Module()
    model.weight = make()
    assert [spec.name for spec in View(model).specs] == ["weight"]
