"""The module's tensors by name, looked up anew each time: whatever object, device or memory is behind a name now.

The one rule: what travels is decided when the view is made. A name may get another object, another memory, another
device; what appears, vanishes, changes shape or dtype, or is tied otherwise is a `ValueError` that says what to do.

- Parameters are `trainable`, whether or not they require a gradient now; a parameter of integers is an integer buffer.
- Persistent buffers (those in the `state_dict`) are buffers. Others stay at home.
- Tensors with the same elements in the same layout are one key, under the first name: the same object under two names,
  parameters tied by `.data`, views. Parameters come before buffers.
- The prefixes that wrappers put before names are left out (`module_names`), so that wrapped and plain workers agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from leeway.worker.module_names import names as names_of
from leeway.worker.modules.choice import Names
from leeway.worker.modules.elements import Elements, overlap
from leeway.worker.modules.travel import fault, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leeway.protocol.tensors import TensorSpec

# How many names an error lists before it counts.
SHOWN_NAMES = 4

# Up to so many tensors that are in another memory than before (buffers that a module assigns anew in each step) are
# each compared with all others; where there are more, all are sorted. For 2,000 tensors: 0.1 ms each, and 25 ms.
FEW = 16


@dataclass(frozen=True, slots=True)
class Tensors:
    """The module's tensors as they are now. `by_key`: the first of each key. `twins`: for keys that have several names,
    all the different objects with those elements, the first included."""

    by_key: Mapping[str, torch.Tensor]
    twins: Mapping[str, Sequence[torch.Tensor]]

    def of(self, key: str) -> Sequence[torch.Tensor]:
        return self.twins.get(key) or (self.by_key[key],)


@dataclass(slots=True)
class _Found:
    """Everything there is, by its path in the module, wrappers included. As `module_names` finds it, but as quickly as
    every step needs it: the names are looked up only where the paths are others than before."""

    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    def walk(self, module: torch.nn.Module, prefix: str = "") -> _Found:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self.parameters[prefix + name] = parameter
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                self.buffers[prefix + name] = buffer
        for name, child in module._modules.items():
            if child is not None:
                self.walk(child, f"{prefix}{name}.")
        return self

    def under(self, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
        """What is at these paths, by the names that `names` gives them; parameters first."""
        tensors = {names[path]: tensor for path, tensor in self.parameters.items() if path in names}
        for path, tensor in self.buffers.items():
            if path in names:
                tensors[names[path]] = tensor
        return tensors

    def paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return tuple(self.parameters), tuple(self.buffers)


def _what(value: object) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


@dataclass(frozen=True, slots=True)
class _Seen:
    """How the module was when it was last in order. In one piece: an interrupt comes between any two assignments.

    `paths`: of parameters and buffers; `names`: on the wire, by the paths of what travels. By name: `marks`;
    `memories`, of those that have elements, and `stretches`, from the first to the last byte of each.
    """

    paths: tuple[tuple[str, ...], tuple[str, ...]]
    names: Mapping[str, str]
    marks: Mapping[str, object]
    memories: Mapping[str, Elements]
    stretches: Mapping[str, tuple[int, int]]
    gpus: frozenset[torch.device]


class View:
    """The view of one module. `exclude`: names, or patterns as a shell has them, of what stays at home; `keys`: of what
    travels, None for everything. `prefix`: of the names on the wire, before those in the module. `part`: of a model
    whose other parts are elsewhere, so that it needs no parameters.

    `specs`: of all keys, in the order of the module. `names`: of each key, all of its names, itself first; `aliases`:
    its further names, where it has any.
    Raises `ValueError` for a module without parameters, with a tensor that cannot travel, or with two that have
    elements in common and are not tied; and for a pattern that matches nothing.
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
        if not isinstance(model, torch.nn.Module):
            raise ValueError(f"model is a {_what(model)}, it must be a torch.nn.Module (an object, not its class)")
        self._model = model
        self._prefix = prefix
        self._exclude = Names("exclude", exclude)
        self._chosen = None if keys is None else Names("keys", keys)
        self._partial = bool(self._exclude) or keys is not None
        found = _Found().walk(model)
        there = names_of(model)
        for argument, names in (("exclude", self._exclude), ("keys", self._chosen)):
            if names is not None and (missing := names.judge(there)) is not None:
                missed = f"{missing!r} matches no parameter or buffer of the module"
                raise ValueError(f"{argument}: {missed}; {_some(there)}")
        included = self._included()
        if not part and not any(path in included for path in found.parameters):
            left = ", or all are excluded" if found.parameters else ""
            raise ValueError(f"the model has no parameters{left}; attach the module that is trained")
        tensors = found.under(included)
        # All are looked at, the second names too: a twin that cannot travel is none.
        memories = {name: memory for name, tensor in tensors.items() if (memory := _memory(tensor))}
        self.names = self._tied(tensors, memories)
        self._specs = {name: spec_of(name, tensor) for name, tensor in tensors.items()}
        self._seen = _Seen(
            found.paths(),
            included,
            {name: _mark(tensor) for name, tensor in tensors.items()},
            memories,
            {name: (memory.start_bytes, memory.end_bytes) for name, memory in memories.items()},
            _gpus(tensors),
        )
        self.specs = tuple(self._specs[key] for key in self.names)
        self.aliases = {key: names[1:] for key, names in self.names.items() if len(names) > 1}
        self._several = {key: names for key, names in self.names.items() if len(names) > 1}

    @property
    def memories(self) -> Mapping[str, Elements]:
        """Of the tensors that have elements, as they were when the module was last in order."""
        return self._seen.memories

    @property
    def gpus(self) -> frozenset[torch.device]:
        return self._seen.gpus

    def look(self) -> Tensors:
        """The tensors as they are now. Raises `ValueError` when they are no longer those that are trained."""
        seen = self._seen
        found = _Found().walk(self._model)
        tensors = found.under(seen.names)
        if found.paths() != seen.paths:
            names = self._included()
            tensors = found.under(names)
            self._compare_names(tensors)
            if self._partial:
                self._tied(tensors, seen.memories)
            self._compare_specs(tensors)  # a parameter may have become a buffer, in the same memory
            seen = replace(seen, paths=found.paths(), names=names)
        marks = {name: _mark(tensor) for name, tensor in tensors.items()}
        if marks != seen.marks:
            # Another memory, shape or dtype somewhere.
            moved = [name for name, mark in marks.items() if mark != seen.marks[name]]
            self._compare_specs({name: tensors[name] for name in moved})
            found_now = {name: memory for name in moved if (memory := _memory(tensors[name]))}
            memories = {**seen.memories, **found_now}
            stretches_now = {name: (memory.start_bytes, memory.end_bytes) for name, memory in found_now.items()}
            stretches = {**seen.stretches, **stretches_now}
            if self._partial or len(moved) > FEW or self._may_touch(stretches_now, stretches):
                self._compare_ties(self._tied(tensors, memories))
            seen = replace(seen, marks=marks, memories=memories, stretches=stretches, gpus=_gpus(tensors))
        self._seen = seen
        by_key = {key: tensors[key] for key in self.names}
        twins = {
            key: list({id(tensors[name]): tensors[name] for name in names}.values())
            for key, names in self._several.items()
        }
        return Tensors(by_key, twins)

    def _included(self) -> dict[str, str]:
        """The names on the wire of what travels, by the paths in the module."""
        names = names_of(self._model).items()
        return {path: self._prefix + name for name, path in names if not self._is_excluded(name)}

    def _may_touch(self, moved: Mapping[str, tuple[int, int]], stretches: Mapping[str, tuple[int, int]]) -> bool:
        """Whether one of these, in its new memory, reaches into another's stretch, or was tied before."""
        if any(name in names for names in self._several.values() for name in moved):
            return True
        for start, end in moved.values():
            # Itself is one of them. Addresses of two devices may be equal by chance: then all is looked at.
            if len([1 for first, last in stretches.values() if first < end and start < last]) > 1:
                return True
        return False

    def _is_excluded(self, name: str) -> bool:
        return name in self._exclude or (self._chosen is not None and name not in self._chosen)

    def _tied(
        self, tensors: Mapping[str, torch.Tensor], memories: Mapping[str, Elements]
    ) -> dict[str, tuple[str, ...]]:
        """The keys with all their names. Raises `ValueError` for elements in common that are not a tie."""
        first_of: dict[object, str] = {}
        names: dict[str, list[str]] = {}
        for name, tensor in tensors.items():
            # Tensors without elements are one only if they are one object: they overlap nothing.
            key = first_of.setdefault(memories.get(name, id(tensor)), name)
            names.setdefault(key, []).append(name)
        if pair := overlap({key: memories[key] for key in names if key in memories}):
            first, second = pair
            raise ValueError(
                f"{first} and {second} have elements in common, but are not the same tensor in the same layout: what"
                f" is pulled into the one would change the other. Give {second} a memory of its own (clone()), tie"
                f" them as a whole, or leave one out: attach(model, exclude=[{second!r}])"
            )
        if self._partial:
            self._check_excluded({memories[key]: key for key in names if key in memories})
        return {key: tuple(found) for key, found in names.items()}

    def _check_excluded(self, keys: Mapping[Elements, str]) -> None:
        found = _Found().walk(self._model)
        tensors = found.parameters | found.buffers
        for name, path in names_of(self._model).items():
            tensor = tensors[path]
            if not self._is_excluded(name) or fault(tensor) or not tensor.numel():
                continue
            if key := keys.get(Elements.of(tensor)):
                raise ValueError(f"{name} is excluded and tied to {key}, which is not; exclude both of them or neither")

    # What has changed since the beginning.

    def _compare_names(self, tensors: Mapping[str, torch.Tensor]) -> None:
        new = {name: tensor for name, tensor in tensors.items() if name not in self._specs}
        gone = [spec for name, spec in self._specs.items() if name not in tensors]
        if not new and not gone:
            return
        described = [
            *(f"{spec} is gone" for spec in gone),
            *(f"{name} {_describe(tensor)} is new" for name, tensor in new.items()),
        ]
        raise ValueError(
            f"the module has changed since it was attached: {_list(described, 'changes')}. What is trained is decided"
            " at attach: change the module before that (layers that make a tensor when they first run: one forward"
            " pass before), put it back as it was, or attach it so in a new session"
        )

    def _compare_specs(self, tensors: Mapping[str, torch.Tensor]) -> None:
        changed = []
        for name, tensor in tensors.items():
            before = self._specs[name]
            if why := fault(tensor):
                raise ValueError(f"{name} was {before.dtype}{list(before.shape)} when it was attached, and now {why}")
            now = spec_of(name, tensor)
            if now != before:
                as_kind = f" ({before.kind}, now {now.kind})" if now.kind != before.kind else ""
                changed.append(f"{name} was {_words(before)} and is {_words(now)}{as_kind}")
        if changed:
            raise ValueError(
                f"the module has changed since it was attached: {_list(changed, 'changes')}. Shapes and dtypes stay"
                " those of attach: convert the module before that (for lower precision use torch.autocast), put it back"
                " as it was, or attach it so in a new session"
            )

    def _compare_ties(self, names_now: Mapping[str, Sequence[str]]) -> None:
        if names_now == self.names:
            return
        key_now = {name: key for key, names in names_now.items() for name in names}
        key_before = {name: key for key, names in self.names.items() for name in names}
        for name, before in key_before.items():
            if key_now[name] != key_now[before]:
                raise ValueError(
                    f"{before} and {name} were the same tensor when the module was attached, and are two now; tie"
                    f" them again ({name} = {before}; model.to(...) takes apart what was tied by .data), or attach the"
                    " module as it is in a new session"
                )
        for name, now in key_now.items():
            if key_before[name] != key_before[now]:
                raise ValueError(
                    f"{now} and {name} were two tensors when the module was attached, and are the same now; tie them"
                    " before attach, give each a memory of its own, or attach the module as it is in a new session"
                )


def _mark(tensor: torch.Tensor) -> object:
    """What changes when another memory, shape or dtype is behind a tensor, or the memory is taken away."""
    try:
        memory = tensor.data_ptr(), tensor.stride(), tensor.untyped_storage().nbytes()
        return memory, tensor.dtype, tensor.shape, tensor.is_neg()
    except (RuntimeError, NotImplementedError):  # it has none: sparse, lazy, a subclass
        return (None,)


def _gpus(tensors: Mapping[str, torch.Tensor]) -> frozenset[torch.device]:
    return frozenset(tensor.device for tensor in tensors.values() if tensor.is_cuda)


def _memory(tensor: torch.Tensor) -> Elements | None:
    return Elements.of(tensor) if fault(tensor) is None and tensor.numel() else None


def _words(spec: TensorSpec) -> str:
    return f"{spec.dtype}[{','.join(map(str, spec.shape))}]"


def _describe(tensor: torch.Tensor) -> str:
    if is_lazy(tensor) or tensor.is_nested:
        return "without a shape"
    return f"{str(tensor.dtype).removeprefix('torch.')}[{','.join(map(str, tensor.shape))}]"


def _list(items: Sequence[str], what: str) -> str:
    more = len(items) - SHOWN_NAMES
    return "; ".join(items[:SHOWN_NAMES]) + (f"; and {more} more {what}" if more > 0 else "")


def _some(names: Iterable[str]) -> str:
    return "it has " + _list(sorted(names), "names").replace(";", ",")
