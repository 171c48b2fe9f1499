"""Values that are offered: compared where the machine has asked for that, and made a group's next version."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.ps.core.offers import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.offers import Offer
    from leeway.ps.arithmetic.parameters import Parameters
    from leeway.ps.core.effects import Adopt, Initialize
    from leeway.ps.core.machine import Machine
    from leeway.ps.server.bodies import Bodies
    from leeway.ps.server.publishing import Publishing


class Offering:
    def __init__(
        self, machine: Machine, parameters: Mapping[str, Parameters], bodies: Bodies, publishing: Publishing
    ) -> None:
        self._machine = machine
        self._parameters = parameters
        self._bodies = bodies
        self._publishing = publishing

    def compare_twins(self, offer: Offer) -> None:
        """What one tensor of the model is two of a file must have the same values there. Raises `WireError`."""
        plan = self._machine.judge_offer(offer)
        for group, name, other in plan.twins if isinstance(plan, Plan) else ():
            if not self._parameters[group].equal(name, other):
                detail = f"{name} and {other} are one tensor in the model, and have other values in the file of --init"
                raise WireError(Code.SCHEMA_CONFLICT, f"{detail}; it is the file of a model in which they are two")

    def initialize(self, effect: Initialize) -> None:
        frame, names = self._bodies[effect.body], frozenset(spec.name for spec in effect.specs)
        work = partial(self._parameters[effect.group].offer, effect.number, frame, names)
        self._publishing.make(effect.group, effect.number, work, frame.body.nbytes)

    def adopt(self, effect: Adopt) -> None:
        work = partial(self._parameters[effect.group].adopt, effect.number, effect.specs, effect.sources)
        self._publishing.make(effect.group, effect.number, work, 0)
