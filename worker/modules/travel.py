"""Which tensors can travel, and what each is on the wire.

The one rule: what has no plain values of its own in memory (none yet, none any more, in another form, or one memory for
several) is refused by its name, with what to do about it.
"""

from __future__ import annotations

import torch
from torch.nn.parameter import is_lazy

from leeway.protocol.tensors import DTYPES, Kind, TensorSpec
from leeway.worker.modules.elements import Elements

_DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}
_PLAIN_DISPATCH = (torch.Tensor.__torch_dispatch__, torch._C._disabled_torch_dispatch_impl)
_PLAIN_FUNCTION = (torch._C._disabled_torch_function_impl,)


def spec_of(name: str, tensor: torch.Tensor, *, on_meta: bool = False) -> TensorSpec:
    """A parameter of integers is an integer buffer: no optimizer can step it. `on_meta`: it may be without values yet.

    Raises `ValueError`.
    """
    if why := fault(tensor, on_meta=on_meta):
        raise ValueError(f"{name} {why}; or leave it out: attach(model, exclude=[{name!r}])")
    dtype = _DTYPE_NAMES[tensor.dtype]
    if not DTYPES[dtype].floating:
        kind = Kind.INTEGER_BUFFER
    elif isinstance(tensor, torch.nn.Parameter):
        kind = Kind.TRAINABLE
    else:
        kind = Kind.FLOAT_BUFFER
    return TensorSpec(name, tuple(tensor.shape), dtype, kind)


def fault(tensor: torch.Tensor, *, on_meta: bool = False) -> str | None:
    """Why it cannot travel, and what to do, to be said behind its name; None if it can. `on_meta`: as in `spec_of`."""
    try:
        return _fault(tensor, on_meta=on_meta)
    except (RuntimeError, NotImplementedError) as error:
        # Some kind of tensor that does not even tell its shape or address.
        words = str(error).partition("\n")[0]
        return f"is no plain tensor with memory of its own ({words}); make it one before the model is attached"


def _fault(tensor: torch.Tensor, *, on_meta: bool) -> str | None:
    if is_lazy(tensor):
        return "has no shape yet; run one forward pass before the model is attached"
    if tensor.is_nested:
        return "is nested: several tensors in one; keep each of them as its own, or pad them: to_padded_tensor(0.0)"
    if not _is_plain(type(tensor)):
        return (
            f"is a {type(tensor).__name__}, which keeps its values in another form or in parts; attach the module"
            " before it is sharded or converted, or make it plain tensors (full_tensor(), dequantize())"
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or torch._is_functional_tensor(tensor):
        return (
            "is a value of a transform of functions (torch.func.vmap, grad, functionalize); assign a plain tensor, and"
            " attach the model outside of it"
        )
    if tensor._is_zerotensor():
        return "is a zero without memory; give it some: clone()"
    if tensor.is_meta and not on_meta:
        return (
            "is on the meta device and has no values; give it some before attach: model.to_empty(device=...), then"
            " initialize it or load_state_dict"
        )
    if tensor.layout != torch.strided:
        return f"is {tensor.layout}; make it dense: to_dense()"
    if tensor.dtype not in _DTYPE_NAMES:
        return f"is {tensor.dtype}; what travels is {', '.join(DTYPES)}: {_remedy(tensor)}"
    if tensor.is_meta or not tensor.numel():
        return None
    elements = Elements.of(tensor)
    needed = elements.end_bytes - elements.start_bytes + tensor.storage_offset() * tensor.dtype.itemsize
    if tensor.untyped_storage().nbytes() < needed:
        return (
            f"has no memory: its storage has {tensor.untyped_storage().nbytes()} bytes and it needs {needed} (FSDP and"
            " offloading take it away between steps); attach the module while it is whole"
        )
    if elements.repeats:
        return "is expanded: several of its elements are the same memory; give each its own: contiguous() or clone()"
    return None


def _is_plain(kind: type[torch.Tensor]) -> bool:
    """Whether torch itself handles it, so that its memory is its values. A subclass may add attributes, no more."""
    if kind in (torch.Tensor, torch.nn.Parameter):
        return True
    function = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    plain = (*_PLAIN_FUNCTION, torch.Tensor.__torch_function__.__func__)  # type: ignore[attr-defined]
    return kind.__torch_dispatch__ in _PLAIN_DISPATCH and function in plain


def _remedy(tensor: torch.Tensor) -> str:
    if tensor.is_quantized:
        return "dequantize()"
    if tensor.is_complex():
        return "keep its real and imaginary part (torch.view_as_real)"
    return "convert it"
