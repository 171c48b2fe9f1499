"""Names on the wire for what a torch module holds: its paths, without the wrappers around it or inside it.

The one rule: a wrapper is known by its type, never by a name. So a model in DataParallel, DDP, FSDP or `torch.compile`
agrees with the plain one, and a user's own submodule called `module` keeps its name.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

# Where each wrapper's class is, what it is called, and the attribute that holds the wrapped module. Those that nobody
# has imported wrap nothing, and to import them here would take seconds (the compiler) or fail (no distributed torch).
_WRAPPERS = (
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
    (
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "ActivationWrapper",
        "_checkpoint_wrapped_module",
    ),
)


def names(model: torch.nn.Module) -> dict[str, str]:
    """The path in the module of every parameter and persistent buffer, by its name on the wire.

    Parameters first, in the module's order; what is there under several names (tied) has them all.
    Raises `ValueError` when two paths have one name.
    """
    found: dict[str, str] = {}
    for path, name in _tensors(model):
        if found.setdefault(name, path) != path:
            raise ValueError(f"{path} and {found[name]} would both be {name!r} on the wire; rename one of them")
    return found


def find(model: torch.nn.Module, path: str) -> torch.Tensor:
    """What the module holds at a path of `names` now. Raises `AttributeError` when nothing is there any more."""
    parent, _, own = path.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(parent), own)
    return tensor


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    prefixes = _prefixes(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    # The modules' own dictionaries: some wrappers change what their `named_parameters` and `state_dict` say.
    for path, module in modules.items():
        for own, parameter in module._parameters.items():
            if parameter is not None:
                yield f"{path}.{own}" if path else own, prefixes[path] + own
    for path, module in modules.items():
        for own, buffer in module._buffers.items():
            if buffer is not None and own not in module._non_persistent_buffers_set:
                yield f"{path}.{own}" if path else own, prefixes[path] + own


def _prefixes(model: torch.nn.Module) -> dict[str, str]:
    """What stands before the names of each module's own tensors, by the module's path."""
    wrappers = [
        (getattr(sys.modules[module], name), attribute)
        for module, name, attribute in _WRAPPERS
        if hasattr(sys.modules.get(module), name)
    ]
    modules = dict(model.named_modules(remove_duplicate=False))
    prefixes = {"": ""}
    for path in modules:
        if path:
            parent, _, own = path.rpartition(".")
            wraps = any(own == attribute and isinstance(modules[parent], kind) for kind, attribute in wrappers)
            prefixes[path] = prefixes[parent] if wraps else f"{prefixes[parent]}{own}."
    return prefixes
