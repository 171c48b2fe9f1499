"""A torch module's tensors on the one side, bodies on the wire on the other.

The one rule: whatever the module holds has one name and one kind here, is looked up by that name each time, and moves
under `torch.no_grad()`.

Whether a parameter is trained is decided once: at attach if it requires a gradient then, else at the first step at
which it does. A trained one is pulled each time. A frozen one is the module's own after attach: it is not pulled again,
and where the script moves it, the first of the live workers pushes it as a value, for those who come later.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

from leeway.protocol.pushes import UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind
from leeway.worker.modules.bodies import MAX_LAYOUTS, Body, new_block, undisturbed, views_of, write
from leeway.worker.modules.movement import Movement, Schedule, changed, same_bytes
from leeway.worker.modules.rounding import Rounding
from leeway.worker.modules.sparse import excess
from leeway.worker.modules.view import View
from leeway.worker.warn import warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leeway.protocol.frames import Buffer, Frame
    from leeway.transport.channel import Tensors
    from leeway.worker.modules.elements import Elements
    from leeway.worker.modules.view import Tensors as Held

# How many names one warning lists before it counts.
SHOWN_NAMES = 8


class ModelBridge:
    """The tensors of one module.

    `exclude`: names or patterns of what stays at home; `keys`: of what travels, everything for None; `prefix`: of the
    names on the wire. `part`: the module is a part of the model, and may have nothing to train. `specs`: of all keys;
    `aliases`: further names of tied ones.
    Raises `ValueError` for a module that cannot travel (see `View`).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        exclude: str | Iterable[str] = (),
        keys: str | Iterable[str] | None = None,
        prefix: str = "",
        *,
        part: bool = False,
    ) -> None:
        if sys.byteorder != "little":
            raise ValueError("tensors travel as little-endian bytes, and this machine is big-endian")
        self._view = View(model, exclude, keys, prefix, part=part)
        self._part = part
        self.specs, self.aliases = self._view.specs, self._view.aliases
        self._spec_by_name = {spec.name: spec for spec in self.specs}
        self._held = held = self._view.look()
        self._parameters = tuple(key for key, tensor in held.by_key.items() if isinstance(tensor, torch.nn.Parameter))
        parameters = frozenset(self._parameters)
        self.buffers = tuple(key for key in held.by_key if key not in parameters)
        # Invariant: it only grows.
        self.trained = {key: None for key in self._parameters if _requires_grad(held, key)}
        self._warn_of_untrained()
        self._movement = Movement()
        self._schedule = Schedule()
        self._warned: set[str] = set()
        self._told_sparse: set[str] = set()
        self._update = Body(pinned=self.on_gpu)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        # What was pulled last, to subtract from and to offer again; views of the received body.
        self._pulled: dict[str, torch.Tensor] = {}
        self._rounding = Rounding()

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parameters that are not trained, or not yet."""
        return tuple(key for key in self._parameters if key not in self.trained)

    @property
    def memories(self) -> Mapping[str, Elements]:
        """Where the tensors with elements lie, by all their names."""
        return self._view.memories

    @property
    def on_gpu(self) -> bool:
        return bool(self._view.gpus)

    def check(self) -> None:
        """Raise `ValueError` when the module is no longer the one that was attached."""
        self._view.look()

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Those of this module that are its own here, twins included."""
        held = self._view.look()
        ours = (tensor for key in self._parameters for tensor in held.of(key))
        return [tensor for tensor in ours if isinstance(tensor, torch.nn.Parameter)]

    def others(self, parameters: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
        """The parameters of this module that are not among these."""
        owned = {id(parameter) for parameter in parameters}
        return [parameter for parameter in self.parameters if id(parameter) not in owned]

    def allocate(self, nbytes: int) -> memoryview:
        """Memory for a received body: pinned when the model is on a GPU, so that it is copied there at once."""
        return new_block(nbytes, pinned=self.on_gpu).numpy().data

    @undisturbed
    def values(self, layout: Layout) -> Sequence[Buffer]:
        """The buffers of a body of some of `specs`: the values pulled last, and before the first pull the model's."""
        held = self._view.look()
        body = Body(pinned=False)
        for name, target in body.lay_out(layout).items():
            target.copy_(self._pulled.get(name, held.by_key[name]))
        return body.tensors().buffers

    @undisturbed
    def load(self, frame: Frame) -> None:
        """Copy pulled values into the model: all at first, then those of trained parameters and buffers. Tensors that
        the model does not have are left alone.

        So are those that have these bytes already. autograd counts writes, and goes back through no graph of what was
        written to since; but a script with two optimizers may step the one before it goes back from the other's loss.
        Raises `ValueError` when one of the model's is missing, or is another there.
        """
        there = {place.spec.name: place for place in frame.places}
        for spec in self.specs:
            if spec.name not in there:
                raise ValueError(f"the server's parameters lack {spec}; is another model being trained there?")
            if there[spec.name].spec != spec:
                raise ValueError(f"the server has {there[spec.name].spec}, and the model {spec}")
        self._held = held = self._view.look()
        first = not self._pulled
        self._pulled = views_of(frame)
        for key in self._spec_by_name if first else (*self.trained, *self.buffers):
            target = held.by_key[key]
            values = self._pulled[key].to(target.device, non_blocking=self.on_gpu)
            if not same_bytes(target, values):
                write(target, values)
            self._rounding.keep(key, held.by_key[key])
        self._rounding.forget()
        if first:
            self._synchronize()
            self._movement.begin({key: held.by_key[key] for key in self.frozen})

    def update(self, kind: UpdateKind, *, first: bool, alone: bool) -> Tensors:
        """What a push of this kind carries."""
        if kind is UpdateKind.GRADIENT:
            return self.gradients(first=first)
        return self.deltas(first=first, alone=alone) if kind is UpdateKind.DELTA else self.weights(first=first)

    def forget_gradients(self) -> None:
        """Set every gradient to None: the next `backward` begins anew."""
        for key in self._parameters:
            for tensor in self._held.of(key):
                if tensor.is_leaf:  # a buffer can be a view of a parameter
                    tensor.grad = None

    @undisturbed
    def gradients(self, *, first: bool = True) -> Tensors:
        """The gradients of the parameters that have one, and the buffers' values. Of twins it is the sum.

        `first`: this is the first of the live workers, and pushes what the script has moved of the frozen ones.
        The memory is that of the last update: it must have had its end.
        Raises `ValueError` when no parameter has a gradient, and the module is not `part` of one that has.
        """
        held = self._looked()
        gradients = self._gradients(held)
        if not gradients and not self._part:
            raise ValueError("no parameter has a gradient; call loss.backward() before step(), or skip()")
        self._warn_of_changes(held)
        self._warn_of_sparse(gradients)
        values = self._moved(held, first=first)
        targets = self._lay_out((*gradients, *values))
        for key, twins in gradients.items():
            dense = [gradient.to_dense() if gradient.layout != torch.strided else gradient for gradient in twins]
            total = dense[0] if len(dense) == 1 else torch.stack(dense).sum(0)
            targets[key].copy_(total, non_blocking=self.on_gpu)
        return self._complete(held, targets, values)

    @undisturbed
    def deltas(self, *, first: bool = True, alone: bool = False) -> Tensors:
        """Pulled minus local of the parameters that are trained, and the buffers' values. `first`: as in `gradients`.
        `alone`: there is no other worker, and what rounding loses of the step is kept here (`modules.rounding`).

        One that does not require a gradient now is sent if it has changed nevertheless.
        The memory is that of the last update: it must have had its end.
        Raises `ValueError` when there is no such parameter.
        """
        return self._local(first=first, pulled=self._pulled, alone=alone)

    @undisturbed
    def weights(self, *, first: bool = True) -> Tensors:
        """The local values of what `deltas` is about."""
        return self._local(first=first, pulled=None)

    def _local(self, *, first: bool, pulled: dict[str, torch.Tensor] | None, alone: bool = False) -> Tensors:
        held = self._looked()
        still = [key for key in self.trained if not _requires_grad(held, key)]
        unchanged = set(still) - set(changed(held.by_key, self._pulled, still))
        trained = [key for key in self.trained if key not in unchanged]
        if not trained:
            raise ValueError("no parameter requires a gradient, so there is nothing to push")
        self._warn_of_sparse(self._gradients(held))
        values = self._moved(held, first=first)
        targets = self._lay_out((*trained, *values))
        for key in trained:
            targets[key].copy_(held.by_key[key], non_blocking=self.on_gpu)
        if pulled is not None:
            self._synchronize()
            for key in trained:
                torch.sub(pulled[key], targets[key], out=targets[key])
                if alone:
                    self._rounding.look(key, pulled[key], held.by_key[key].to(pulled[key].device), targets[key])
        return self._complete(held, targets, values)

    def _looked(self) -> Held:
        """The module as it is at this step: what requires a gradient is trained from now on."""
        self._held = held = self._view.look()
        if thawed := [key for key in self.frozen if _requires_grad(held, key)]:
            self.trained = self.trained | dict.fromkeys(thawed)
        self._movement.look({key: held.by_key[key] for key in self.frozen})
        return held

    def _gradients(self, held: Held) -> dict[str, list[torch.Tensor]]:
        """Of each trained parameter that has any: its gradients, one for each of its twins that has one."""
        return {
            key: found
            for key in self.trained
            if (found := [tensor.grad for tensor in held.of(key) if tensor.is_leaf and tensor.grad is not None])
        }

    def _moved(self, held: Held, *, first: bool) -> tuple[str, ...]:
        """The frozen tensors that are the script's to move, and not on the server as they are here."""
        if not first:
            return ()
        moved = [key for key in self.frozen if key in self._movement.moved]
        return tuple(key for key in moved if not same_bytes(held.by_key[key], self._pulled[key]))

    def _warn_of_untrained(self) -> None:
        """A buffer that requires a gradient collects one for nobody: no local optimizer has it among its parameters."""
        tensors = {key: self._held.by_key[key] for key in self.buffers}
        if found := [key for key, tensor in tensors.items() if tensor.requires_grad and tensor.is_leaf]:
            warn(
                f"a buffer that requires a gradient is not trained: {_some(found)}. To have it trained, make it an"
                " nn.Parameter; else requires_grad_(False)"
            )

    def _warn_of_changes(self, held: Held) -> None:
        due = self._schedule.due
        found = changed(held.by_key, self._pulled, self.trained) if due else []
        self._schedule.looked()
        found = [key for key in found if key not in self._warned]
        if not found:
            return
        self._warned.update(found)
        warn(
            f"changed between pull and step, and lost with the next pull: {_some(found)}. A push of gradients carries"
            " no other change of a trained parameter (a step of an optimizer here, clamp_, clipping of weights); a push"
            ' with update="delta" does, and leeway.wrap makes one of each step'
        )

    def _warn_of_sparse(self, gradients: Mapping[str, Sequence[torch.Tensor]]) -> None:
        found = {key: times for key in gradients if key not in self._told_sparse and (times := excess(gradients[key]))}
        if not found:
            return
        self._told_sparse.update(found)
        told = [f"{key} ({times:,.{0 if times >= 10 else 1}f} times the rows touched)" for key, times in found.items()]
        warn(
            f"sparse gradients are sent dense, with every row: {_some(told)}. The result is the same; accumulation or"
            " local steps send it less often"
        )

    def _lay_out(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        keys = (*names, *self.buffers)
        if keys not in self._layouts:
            if len(self._layouts) == MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[keys] = Layout.of(self._spec_by_name[key] for key in keys)
        if self._update.pinned is not self.on_gpu:
            self._update = Body(pinned=self.on_gpu)
        return self._update.lay_out(self._layouts[keys])

    def _complete(self, held: Held, targets: dict[str, torch.Tensor], values: tuple[str, ...]) -> Tensors:
        for key in (*self.buffers, *values):
            targets[key].copy_(held.by_key[key], non_blocking=self.on_gpu)
        self._synchronize()
        trainable = (key for key in values if self._spec_by_name[key].kind is Kind.TRAINABLE)
        return self._update.tensors(tuple(trainable))

    def _synchronize(self) -> None:
        for gpu in self._view.gpus:
            torch.cuda.synchronize(gpu)


def _requires_grad(held: Held, key: str) -> bool:
    return any(tensor.requires_grad and tensor.is_leaf for tensor in held.of(key))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
