"""A group's policy and optimizer, to be seen and to be changed while it runs.

The one rule: a change has its place among the steps. Those decided before it are made with what was before.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import OptimizerState, SetOptimizer
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.arithmetic.trial import try_settings
from leeway.ps.server.applier import Applier, Job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from leeway.protocol.tuning import PolicyState, SetPolicy
    from leeway.ps.arithmetic.parameters import Parameters
    from leeway.ps.core.machine import Machine
    from leeway.ps.core.preview import Preview
    from leeway.ps.server.asking import Outcome
    from leeway.ps.watching.listeners import Listeners
    from leeway.ps.watching.observer import Observer


class Tuning:
    """`ask` hands a request to the machine. `fail` gets a fault of ours, with what was being done."""

    def __init__(
        self,
        machine: Machine,
        parameters: Mapping[str, Parameters],
        appliers: Mapping[str, Applier],
        observer: Observer,
        listeners: Listeners,
        *,
        ask: Callable[[SetOptimizer], Awaitable[Outcome]],
        fail: Callable[[str, BaseException], None],
    ) -> None:
        self._machine = machine
        self._parameters = parameters
        self._appliers = appliers
        self._observer = observer
        self._listeners = listeners
        self._ask = ask
        self._fail = fail
        # Whose optimizer nobody has chosen, until the first update says what is wanted.
        self._open: set[str] = set()
        # Those of the next step decided; the arithmetic may have some to make before.
        self._settings: dict[str, OptimizerSettings] = {}
        for name in parameters:
            self.begin(name)

    def begin(self, name: str) -> None:
        """From here on the group can be asked about, and changed."""
        group = self._parameters[name]
        if not group.chosen and not group.steps:
            self._open.add(name)
        self._settings[name] = group.settings

    def policy(self, group: str) -> PolicyState:
        self._known(group)
        return self._machine.groups[group].policy_state()

    def preview(self, wanted: SetPolicy) -> Preview:
        """What would come of it now. Raises `WireError` as the machine refuses it."""
        self._known(wanted.group)
        try:
            return self._machine.groups[wanted.group].preview(wanted.terms)
        except ValueError as error:
            raise WireError(Code.INVALID_VALUE, str(error)) from None

    def optimizer(self, group: str) -> OptimizerState:
        """The settings, with the steps made so far and the rate of the next one."""
        steps, settings = self._known(group).steps, self._settings[group]
        progress = {"steps": steps, "learning_rate": settings.learning_rate(steps)}
        return OptimizerState(group, settings.to_fields() | progress)

    async def set_optimizer(self, group: str, changes: Mapping[str, Any], why: str = "") -> OptimizerState:
        """Other settings, from the next step decided after this on. `why`: where nobody has asked for them.

        Raises `WireError`.
        """
        self._known(group)
        self._open.discard(group)
        try:
            wanted = self._settings[group].reconfigured(changes)
            try_settings(wanted)
        except ValueError as error:
            raise WireError(Code.INVALID_VALUE, str(error)) from None
        reply = (await self._ask(SetOptimizer(group, wanted.to_fields()))).reply
        if isinstance(reply, Refused):
            raise reply.error
        with self._listeners.guard("observer"):
            self._observer.configured(group, changes, why)
        return self.optimizer(group)

    async def first_update(self, group: str, kind: UpdateKind) -> None:
        """An update of this kind comes. Steps that workers have made are taken as they are, unless somebody has chosen
        an optimizer, or gradients have been stepped with before.
        """
        if group in self._open:
            self._open.discard(group)
            if kind is not UpdateKind.GRADIENT:
                await self.set_optimizer(group, {"lr": 1.0}, "the steps that workers make are taken as they are")

    def configure(self, group: str, fields: Mapping[str, Any]) -> None:
        """The machine has taken the change."""
        settings = self._settings[group] = OptimizerSettings.read(fields)
        work = partial(self._parameters[group].configure, settings)
        failed = partial(self._fail, f"changing the optimizer of group {group}")
        self._appliers[group].submit(Job(work, _done, failed, nbytes=0, makes_version=False))

    def _known(self, group: str) -> Parameters:
        if group not in self._parameters:
            known = ", ".join(self._parameters)
            raise WireError(Code.UNKNOWN_GROUP, f"there is no group {group[:80]!r}; this server has {known}")
        return self._parameters[group]


def _done(result: object) -> None:
    """Nothing is left to be done with it."""
