"""What is made of the offers of a group: keys that are new to it, and tensors of a file that get a model's names.

They come here judged (offers.judge_offer). The one rule: keys count from the decision on, so that the next offer is
judged by them; when the step that stores them fails, they are as they were, and the offerer is told to offer again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.codes import Code
from leeway.protocol.refusals import refuse
from leeway.protocol.schema import Sizes
from leeway.ps.core.effects import Adopt, Answered, Drop, Initialize
from leeway.ps.core.in_flight import Adding, Adopting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from leeway.protocol.refusals import Refused
    from leeway.protocol.tensors import TensorSpec
    from leeway.ps.core.adoption import Adoption
    from leeway.ps.core.in_flight import Offering
    from leeway.ps.core.situation import Situation


class Offerings:
    def __init__(self, group: Situation) -> None:
        self._group = group
        # What the tensors are called in the version that is computed, while other names are being given.
        self._named: Mapping[str, TensorSpec] = {}

    def declare(self, specs: Iterable[TensorSpec]) -> None:
        """These are all keys; several stages offer them, each its own, and nothing is read before all are there."""
        group = self._group
        group.declared = {spec.name: spec for spec in specs}
        group.readable = False

    def add(self, specs: tuple[TensorSpec, ...], holds: str, offering: Offering) -> None:
        """Add keys, none of them known, from the body of the offer: they make the next version."""
        group = self._group
        if not group.specs:
            group.holds = holds
        self._keep(group.specs | {spec.name: spec for spec in specs})
        if group.declared is not None and not group.declared.keys() - group.specs.keys():
            group.whole = True
        number = group.decide(Adding(offering, tuple(spec.name for spec in specs)))
        group.emit(Initialize(group.name, number, offering.request, specs))

    def added(self, adding: Adding, *, failed: bool) -> None:
        """The keys of an offer are there, or are not."""
        group = self._group
        if failed:
            self._keep({name: spec for name, spec in group.specs.items() if name not in adding.keys})
            # Whoever declared them offers them again.
            group.whole = False
        elif group.declared is None or (group.whole and not self._are_adding):
            group.readable = True
        self._come_so_far(adding.offering, failed=failed)

    def adopt(self, adoption: Adoption, offering: Offering) -> None:
        """The tensors of a file, as a model has them: they make the next version.

        Whoever has pulled them under the file's names has to pull again before it pushes.
        """
        group = self._group
        if not self._adopting:
            self._named = group.specs
        self._keep({spec.name: spec for spec in adoption.specs})
        for member in list(group.roster):
            progress = member.groups[group.name]
            if member.is_replica and progress.grants:
                # Some of its stages compute from what others can no longer have.
                group.lose(member, f"the tensors that {member} has pulled have got the names of a model meanwhile")
                continue
            progress.take_back()
            group.drop_staged(progress)
        group.named_from = group.decide(Adopting(offering, group.specs))
        group.emit(Adopt(group.name, group.named_from, adoption.specs, adoption.sources))

    def adopted(self, adopting: Adopting, *, failed: bool) -> None:
        """The tensors have the model's names and kinds, or still those of the version before."""
        group = self._group
        if failed:
            self._keep(self._named)
            group.whole, group.from_file = False, True
        else:
            self._named = adopting.specs
            if not self._adopting:
                self._keep(adopting.specs)
        self._come_so_far(adopting.offering, failed=failed)

    @property
    def _are_adding(self) -> bool:
        return any(isinstance(step, Adding) for step in self._group.in_flight.values())

    @property
    def _adopting(self) -> bool:
        return any(isinstance(step, Adopting) for step in self._group.in_flight.values())

    def _come_so_far(self, offering: Offering, *, failed: bool) -> None:
        """The offer is answered when all its groups have come so far."""
        offering.failed = offering.failed or failed
        offering.groups_left -= 1
        if not offering.groups_left:
            self._group.emit(Drop((offering.request,)))
            if not offering.gone:
                self._group.emit(Answered(offering.request, _not_stored() if offering.failed else offering.reply))

    def gone(self, request: int) -> None:
        """The asker is no longer there: what it offered is stored, and nobody is told."""
        for step in self._group.in_flight.values():
            if isinstance(step, Adding) and step.offering.request == request:
                step.offering.gone = True

    def _keep(self, specs: Mapping[str, TensorSpec]) -> None:
        group = self._group
        added = {name: spec for name, spec in specs.items() if name not in group.specs}
        grown = len(added) + len(group.specs) == len(specs)
        group.sizes = (
            group.sizes + Sizes.of(added.values(), group.name) if grown else Sizes.of(specs.values(), group.name)
        )
        group.specs = dict(specs)


def _not_stored() -> Refused:
    return refuse(
        Code.INTERNAL, "the server failed to store what was offered, its log says why; its keys are free, offer again"
    )
