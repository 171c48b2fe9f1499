"""Judges an offer: what is new in which group, what is kept, and what is refused. Pure.

The one rule: an offer is taken as a whole or refused as a whole, and everything is judged by what has been decided,
published or not. So of two first offers at the same moment one finds the other's keys there, and no group is ever
the union of two models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol import parts
from leeway.protocol.codes import Code
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.refusals import Refused, refuse
from leeway.protocol.schema import Difference, Sizes
from leeway.ps.core.adoption import Adoption, adopt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from leeway.protocol.capacity import Capacity
    from leeway.protocol.offers import Offer
    from leeway.protocol.tensors import TensorSpec
    from leeway.ps.core.groups import Group


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of an offer. `new`: by group. `whole`: the group that has all its keys with this offer.

    `of_file`: groups whose keys are from now on those of a file of initial values.
    """

    new: Mapping[str, list[TensorSpec]]
    kept: tuple[str, ...]
    adoptions: Mapping[str, Adoption]
    whole: str | None
    of_file: tuple[str, ...]

    @property
    def twins(self) -> list[tuple[str, str, str]]:
        """Group, and two names of the file whose tensors are one in the model: their values must be the same."""
        return [(group, *pair) for group, adoption in self.adoptions.items() for pair in adoption.twins]


def judge_offer(
    offer: Offer, groups: Mapping[str, Group], group_of: Callable[[str], str | None], capacity: Capacity
) -> Plan | Refused:
    """`group_of`: the group whose patterns a key matches."""
    about = offer.group or (DEFAULT_GROUP if offer.whole else None)
    if about is not None and about not in groups:
        return refuse(Code.UNKNOWN_GROUP, f"there is no group {about!r}; this server has {', '.join(groups)}")
    offered: dict[str, list[TensorSpec]] = {about: []} if about is not None else {}
    for spec in offer.specs:
        name = group_of(spec.name)
        if name is None:
            its_own = _own_keys(spec, groups[about]) if about is not None else ""
            advice = f"; {its_own}" if its_own else ""
            return refuse(Code.UNKNOWN_TENSOR, f"no group holds a tensor named {spec.name!r}{advice}")
        if about is not None and name != about:
            return _of_another(spec, groups[name], groups[about])
        offered.setdefault(name, []).append(spec)

    new: dict[str, list[TensorSpec]] = {}
    kept: list[str] = []
    adoptions: dict[str, Adoption] = {}
    for name, specs in offered.items():
        group = groups[name]
        if group.from_file and not group.schema_closed:
            found = _judge_against_file(group, offer, tuple(specs))
            if isinstance(found, Refused):
                return found
            kept += [spec.name for spec in specs]
            if found.twins or found.changes(group.specs):
                adoptions[name] = found
        else:
            added = _judge_group(group, offer, specs)
            if isinstance(added, Refused):
                return added
            kept += [spec.name for spec in specs if spec.name in group.specs]
            if added:
                new[name] = added
    too_large = _too_large(groups, new, adoptions, capacity)
    if too_large:
        return too_large
    # A file is all there is, and a group that it has nothing for is one that it does not cover.
    of_file = tuple(name for name, group in groups.items() if not group.specs) if offer.from_file else ()
    # The question about an empty model says nothing about an empty group. One that stages have declared is whole when
    # all that they declared is there.
    declared = about is not None and groups[about].declared is not None
    whole = about if offer.whole and offer.specs and not declared else None
    return Plan(new, tuple(kept), adoptions, whole, of_file)


def _own_keys(spec: TensorSpec, about: Group) -> str:
    """What to do where the group's table does not take the keys of the part of that name; empty for other tensors."""
    if not spec.name.startswith(parts.prefix(about.name)):
        return ""
    own = parts.pattern(about.name)
    return f"keys in [group.{about.name}] does not take {own}, as the part of that name has: leave keys out there"


def _of_another(spec: TensorSpec, its: Group, about: Group) -> Refused:
    advice = _own_keys(spec, about) or (
        "attach what is trained there: a model whose names match, as with nn.ModuleDict, or that part of it (keys=)"
    )
    return refuse(
        Code.SCHEMA_CONFLICT,
        f"tensor {spec.name!r} is of group {its.name!r} ({', '.join(its.keys)}), and this offer is about group "
        f"{about.name!r} ({', '.join(about.keys)}); {advice}",
    )


def _judge_against_file(group: Group, offer: Offer, specs: tuple[TensorSpec, ...]) -> Adoption | Refused:
    found = adopt(group.specs, offer, specs)
    if isinstance(found, Difference):
        words = found.in_words("the model" if offer.whole else "the offer", "the file")
        return refuse(
            Code.SCHEMA_CONFLICT,
            f"--init does not fit the model in group {group.name!r}: {words}; start the server with a file of this "
            f"model, or without --init",
            group=group.name,
            **found.to_facts(),
        )
    for spec in specs:
        there = group.specs[found.sources[spec.name]]
        if (there.shape, there.dtype) != (spec.shape, spec.dtype):
            return refuse(Code.SCHEMA_CONFLICT, f"{spec} is {there} in the file of --init")
    return found


def _judge_group(group: Group, offer: Offer, specs: list[TensorSpec]) -> list[TensorSpec] | Refused:
    """Those of `specs` that are new to the group."""
    known_specs = group.specs if group.declared is None else group.declared
    if offer.whole and known_specs:
        difference = Difference.between(known_specs, (spec.name for spec in specs))
        if difference:
            return refuse(
                Code.SCHEMA_CONFLICT,
                f"group {group.name!r} holds another model: {difference.in_words('this one', 'the group')}; start all "
                f"workers with the same model, or say which keys of it are trained there (keys=)",
                group=group.name,
                **difference.to_facts(),
            )
    new = []
    for spec in specs:
        known = known_specs.get(spec.name)
        if known is None:
            if group.schema_closed or group.whole or group.declared is not None:
                why = "has had its first update" if group.schema_closed else "was offered whole"
                return refuse(
                    Code.SCHEMA_CLOSED,
                    f"tensor {spec.name!r} is new, but group {group.name} {why}; its keys are fixed",
                )
            new.append(spec)
        elif known != spec:
            return refuse(
                Code.SCHEMA_CONFLICT,
                f"group {group.name!r} holds another model: this one has {spec} ({spec.kind}), the group has {known} "
                f"({known.kind}); start all workers with the same model",
            )
        elif spec.name not in group.specs:
            new.append(spec)
    # What is there of a model that several stages offer is of another version: together they would be no model.
    torn = group.declared is not None and bool(group.specs) and offer.holds != group.holds
    return [] if torn else new


def _too_large(
    groups: Mapping[str, Group],
    new: Mapping[str, Iterable[TensorSpec]],
    adoptions: Mapping[str, Adoption],
    capacity: Capacity,
) -> Refused | None:
    if not new and not adoptions:
        return None
    together = Sizes()
    for name, group in groups.items():
        if name in adoptions:
            sizes = Sizes.of(adoptions[name].specs, name)
        else:
            sizes = group.sizes + Sizes.of(new.get(name, ()), name)
        excess = sizes.excess(capacity)
        if excess:
            return refuse(Code.SCHEMA_TOO_LARGE, f"group {name!r} would have {excess}")
        together += sizes
    excess = together.excess_together(capacity)
    return refuse(Code.SCHEMA_TOO_LARGE, f"the groups of this server would have {excess}") if excess else None
