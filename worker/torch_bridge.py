"""A torch module's tensors on the one side, bodies on the wire on the other.

The one rule: whatever the module holds has one name and one kind here, and moves under `torch.no_grad()`.

- Parameters are `trainable`, whether or not they require a gradient now: a frozen one is offered and pulled, and
  never pushed. Tied ones are one key, under the first name. A frozen parameter of integers is an integer buffer.
- Persistent buffers (those in the `state_dict`) travel as values with every update; BatchNorm's running mean and
  variance, `num_batches_tracked`. Others stay at home.
- The prefixes that wrappers put before names are left out (`module_names`), so that wrapped and plain workers agree.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from leeway.protocol.spans import Layout
from leeway.protocol.tensors import ALIGNMENT_BYTES, DTYPES, Kind, TensorSpec
from leeway.worker.exchange import Tensors
from leeway.worker.module_names import find, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leeway.protocol.frames import Buffer, Frame

_DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}


class Body:
    """One block of memory that bodies are laid out in, one after another; pinned for a model on a GPU.

    Invariant: what is between the tensors is zero, and nobody is sending the block while it is written to.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._block = torch.empty(0, dtype=torch.uint8)
        self._layout: Layout | None = None
        self._views: dict[str, torch.Tensor] = {}

    def lay_out(self, layout: Layout) -> dict[str, torch.Tensor]:
        """The tensors to write to, by name. Their contents are undefined, the padding is zero."""
        if self._layout != layout:
            if self._block.numel() < layout.nbytes:
                self._block = new_block(layout.nbytes, pinned=self._pinned)
            self._block.zero_()
            self._layout = layout
            self._views = {
                name: _view(self._block, place.spec, place.offset_bytes) for name, place in layout.places.items()
            }
        return self._views

    def tensors(self) -> Tensors:
        """What was laid out last, ready to be sent."""
        assert self._layout is not None
        return Tensors(self._layout, [self._block.numpy().data[: self._layout.nbytes]])


def new_block(nbytes: int, *, pinned: bool) -> torch.Tensor:
    """Uninitialized bytes, uint8 `(nbytes,)`, at an address that is a multiple of 64."""
    room = torch.empty(nbytes + ALIGNMENT_BYTES, dtype=torch.uint8, pin_memory=pinned)
    start = -room.data_ptr() % ALIGNMENT_BYTES
    return room[start : start + nbytes]


def _view(block: torch.Tensor, spec: TensorSpec, offset_bytes: int) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    return block[offset_bytes : offset_bytes + spec.nbytes].view(dtype).view(spec.shape)


class ModelBridge:
    """The tensors of one module.

    Raises `ValueError` for a module without parameters, with lazy ones that no forward pass has shaped yet, or
    with dtypes that do not travel (complex, quantized).
    """

    def __init__(self, model: torch.nn.Module) -> None:
        if sys.byteorder != "little":
            raise ValueError("tensors travel as little-endian bytes, and this machine is big-endian")
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.buffers: dict[str, torch.Tensor] = {}
        # The first name of each tensor, and further names of those that are tied.
        first: dict[int, str] = {}
        self.aliases: dict[str, tuple[str, ...]] = {}
        for name, path in names(model).items():
            tensor = find(model, path)
            own = first.setdefault(id(tensor), name)
            if own != name:
                self.aliases[own] = (*self.aliases.get(own, ()), name)
            elif isinstance(tensor, torch.nn.Parameter):
                self.parameters[name] = tensor
            else:
                self.buffers[name] = tensor
        if not self.parameters:
            raise ValueError("the model has no parameters; attach the module that is trained")
        self._tensors: dict[str, torch.Tensor] = {**self.parameters, **self.buffers}
        self.specs = tuple(_spec(name, tensor) for name, tensor in self._tensors.items())
        self._spec_by_name = {spec.name: spec for spec in self.specs}
        self._gpus = {tensor.device for tensor in self._tensors.values() if tensor.is_cuda}
        self.on_gpu = bool(self._gpus)
        self._update = Body(pinned=self.on_gpu)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        # What was pulled last, to subtract from and to offer again; views of the received body.
        self._pulled: dict[str, torch.Tensor] = {}

    def allocate(self, nbytes: int) -> memoryview:
        """Memory for a received body: pinned when the model is on a GPU, so that it is copied there at once."""
        return new_block(nbytes, pinned=self.on_gpu).numpy().data

    @torch.no_grad()
    def values(self, layout: Layout) -> Sequence[Buffer]:
        """The buffers of a body of some of `specs`: the values pulled last, and before the first pull the model's."""
        body = Body(pinned=False)
        for name, target in body.lay_out(layout).items():
            target.copy_(self._pulled.get(name, self._tensors[name]))
        return body.tensors().buffers

    @torch.no_grad()
    def load(self, frame: Frame) -> None:
        """Copy pulled parameters and buffers into the model. Tensors that it does not have are left alone.

        Raises `ValueError` when one of the model's is missing, or is another there.
        """
        there = {place.spec.name: place for place in frame.places}
        for spec in self.specs:
            if spec.name not in there:
                raise ValueError(f"the server's parameters lack {spec}; is another model being trained there?")
            if there[spec.name].spec != spec:
                raise ValueError(f"the server has {there[spec.name].spec}, and the model {spec}")
        # frombuffer refuses a buffer without bytes.
        empty = torch.empty(0, dtype=torch.uint8)
        block = torch.frombuffer(frame.body, dtype=torch.uint8) if frame.body.nbytes else empty
        self._pulled = {spec.name: _view(block, spec, there[spec.name].offset_bytes) for spec in self.specs}
        for name, pulled in self._pulled.items():
            self._tensors[name].copy_(pulled, non_blocking=self.on_gpu)

    def forget_gradients(self) -> None:
        """Set every gradient to None: the next `backward` begins anew."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def gradients(self) -> Tensors:
        """The gradients of the parameters that have one, and the buffers' values.

        The memory is that of the last update: it must have had its end.
        Raises `ValueError` when no parameter has a gradient.
        """
        gradients = {
            name: parameter.grad
            for name, parameter in self.parameters.items()
            if parameter.requires_grad and parameter.grad is not None
        }
        if not gradients:
            raise ValueError("no parameter has a gradient; call loss.backward() before step(), or skip()")
        targets = self._lay_out(gradients)
        for name, gradient in gradients.items():
            dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
            targets[name].copy_(dense, non_blocking=self.on_gpu)
        return self._complete(targets)

    @torch.no_grad()
    def deltas(self) -> Tensors:
        """Pulled minus local of the parameters that are trained, and the buffers' values.

        The memory is that of the last update: it must have had its end.
        Raises `ValueError` when no parameter requires a gradient.
        """
        trained = {name: one for name, one in self.parameters.items() if one.requires_grad}
        if not trained:
            raise ValueError("no parameter requires a gradient, so there is nothing to push")
        targets = self._lay_out(trained)
        for name, parameter in trained.items():
            targets[name].copy_(parameter, non_blocking=self.on_gpu)
        self._synchronize()
        for name in trained:
            torch.sub(self._pulled[name], targets[name], out=targets[name])
        return self._complete(targets)

    def _lay_out(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        keys = (*names, *self.buffers)
        if keys not in self._layouts:
            # Which parameters get a gradient hardly ever changes; if it does all the time, nothing piles up.
            self._layouts = {keys: Layout.of(self._spec_by_name[key] for key in keys)}
        return self._update.lay_out(self._layouts[keys])

    def _complete(self, targets: dict[str, torch.Tensor]) -> Tensors:
        for name, buffer in self.buffers.items():
            targets[name].copy_(buffer, non_blocking=self.on_gpu)
        self._synchronize()
        return self._update.tensors()

    def _synchronize(self) -> None:
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    if is_lazy(tensor):
        raise ValueError(f"{name} has no shape yet; run one forward pass before the model is attached")
    dtype = _DTYPE_NAMES.get(tensor.dtype)
    if dtype is None:
        raise ValueError(f"{name} is {tensor.dtype}; what travels is {', '.join(DTYPES)}")
    if not DTYPES[dtype].floating:
        kind = Kind.INTEGER_BUFFER
    elif isinstance(tensor, torch.nn.Parameter):
        kind = Kind.TRAINABLE
    else:
        kind = Kind.FLOAT_BUFFER
    return TensorSpec(name, tuple(tensor.shape), dtype, kind)
