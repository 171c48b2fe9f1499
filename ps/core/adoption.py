"""Initial values of a file meet the first model: which tensor of the file is which of the model's.

The one rule: every tensor of the model is in the file, under one of its names, and every tensor of the file is in the
model, or nothing is adopted. What starts from a file starts from all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from leeway.protocol.schema import Difference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.offers import Offer
    from leeway.protocol.tensors import TensorSpec

# What wrappers put before the names of a state dict: DataParallel and DDP, `torch.compile`, FSDP, checkpoint_wrapper.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True, slots=True)
class Adoption:
    """`specs`: all tensors of the group from here on. `sources`: the name of each in the file.

    `twins`: pairs of names in the file that are one tensor in the model; only the first's value is taken.
    """

    specs: tuple[TensorSpec, ...]
    sources: Mapping[str, str]
    twins: tuple[tuple[str, str], ...]

    def changes(self, known: Mapping[str, TensorSpec]) -> bool:
        """Whether the group is another one after it."""
        return {spec.name: spec for spec in self.specs} != known


def adopt(known: Mapping[str, TensorSpec], offer: Offer, specs: tuple[TensorSpec, ...]) -> Adoption | Difference:
    """Find the offered `specs` among those of the file (`known`). A whole offer leaves none of the file's over.

    The prefixes of wrappers are taken off when all names of the file have them: as few as will do. The difference
    is that of the best match. Shapes and dtypes are not compared here; kinds are the model's to say.
    """
    best: Difference | None = None
    for names in _without_prefixes(known):
        found = _match(names, known, offer, specs)
        if isinstance(found, Adoption):
            return found
        if best is None or len(found) < len(best):
            best = found
    assert best is not None
    return best


def _without_prefixes(known: Mapping[str, TensorSpec]) -> list[dict[str, str]]:
    """The file's names by what they may be called: as they are, then without one prefix after another."""
    names = {name: name for name in known}
    found = [names]
    while names:
        prefix = next((prefix for prefix in WRAPPER_PREFIXES if all(name.startswith(prefix) for name in names)), None)
        if prefix is None or any(len(name) == len(prefix) for name in names):
            break
        names = {name.removeprefix(prefix): full for name, full in names.items()}
        found.append(names)
    return found


def _match(
    names: dict[str, str], known: Mapping[str, TensorSpec], offer: Offer, specs: tuple[TensorSpec, ...]
) -> Adoption | Difference:
    sources: dict[str, str] = {}
    twins: list[tuple[str, str]] = []
    left = dict(names)
    for spec in specs:
        there = [name for name in (spec.name, *offer.aliases.get(spec.name, ())) if name in left]
        if there:
            sources[spec.name] = names[there[0]]
            twins += [(names[there[0]], names[other]) for other in there[1:]]
            for name in there:
                del left[name]
    missing = tuple(spec.name for spec in specs if spec.name not in sources)
    if missing or (offer.whole and left):
        return Difference(tuple(left) if offer.whole else (), missing)
    rest = {name: replace(known[full], name=name) for name, full in left.items()}
    return Adoption((*specs, *rest.values()), sources | left, tuple(twins))
