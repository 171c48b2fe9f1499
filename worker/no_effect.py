"""What a script does that moves nothing, said once: here it is found out, in one place.

The one rule: what has any effect is not warned of. Clipping acts on what is pushed; an optimizer that trains something
else beside the model, or changes values that a push carries, acts too.

What a loop changes in the parameters themselves before a push of gradients is found by `torch_bridge`, which compares.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

from leeway.worker.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    import torch

# Of a group of parameters: what they are, what schedules remember there, and what says how a step is computed.
_NO_SETTINGS = frozenset(
    {"params", "param_names", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}
)


class Carrier:
    """An optimizer that carries gradients for the server's: what changes in its settings moves nothing.

    `drives_rate`: but the rate does, for the server goes by it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, drives_rate: bool) -> None:
        self._without = _NO_SETTINGS | ({"lr"} if drives_rate else frozenset())
        self._first: list[dict[str, Any]] | None = self._settings(optimizer)

    def look(self, optimizer: torch.optim.Optimizer) -> None:
        """At each step. Warns at the first at which something is another than it was."""
        if self._first is None:
            return
        now = self._settings(optimizer)
        changed = {
            name
            for before, after in zip(self._first, now, strict=False)
            for name, value in after.items()
            if value != before.get(name)
        }
        if not changed:
            return
        self._first = None
        hint = "lr='script' has it go by this one's rate" if "lr" in changed else "its settings are those of ps-serve"
        warn(
            f"the script, or its scheduler, has changed {', '.join(sorted(changed))} of {type(optimizer).__name__}, and"
            f" that has no effect: the server's optimizer makes the steps, with a schedule of its own (--lr-schedule);"
            f" {hint}"
        )

    def _settings(self, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
        return [
            {name: _plain(value) for name, value in group.items() if name not in self._without}
            for group in optimizer.param_groups
        ]


def _plain(value: Any) -> Any:
    """A tensor is changed in place, and compares element by element."""
    return value.tolist() if hasattr(value, "tolist") else value


class Idle:
    """Looks for an optimizer of the script's own that steps on parameters whose gradients a session has taken.

    `attached`: the session's parameters as they are now; it must not refer to the session. `wrapped`: those whose steps
    are the session's own. Ends with `owner`, or when one is found.
    """

    def __init__(
        self,
        owner: object,
        attached: Callable[[], Iterable[torch.Tensor]],
        wrapped: Container[torch.optim.Optimizer],
    ) -> None:
        self._attached = attached
        self._wrapped = wrapped
        self._end = weakref.finalize(owner, register_optimizer_step_pre_hook(self._look).remove)
        self._end.atexit = False

    def _look(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        closure = len(args) > 1 or kwargs.get("closure")  # the first is the optimizer
        if closure or optimizer in self._wrapped:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if any(parameter.grad is not None for parameter in parameters):
            return
        ours = {id(tensor) for tensor in self._attached()}
        if any(id(parameter) not in ours for parameter in parameters):
            return
        self._end()
        warn(
            f"{type(optimizer).__name__}.step() finds no gradients, so neither it nor its scheduler has an effect:"
            " session.step() has pushed them, and the server's optimizer makes the steps. Leave it out, or let"
            " leeway.wrap(optimizer, model) make a worker of a script with an optimizer of its own"
        )
