"""A script's own optimizer as a worker: what each of its steps has done is pushed, and what the server has is pulled.

The one rule: the script stays as it is. Its optimizer, schedule, clipping, scaler and accumulation act as before; this
looks on through torch's hooks, between a step and what follows it.

    optimizer = leeway.wrap(optimizer, model)

What is pushed is a `delta`, pulled minus local. For float32 and float64 the server's `pulled - delta` is then the local
value again, bit by bit, as long as a step is one subtraction (Dekker 1971, theorem 4.7, and Sterbenz's lemma).
With `server_optimizer` gradients are pushed before the step, which then finds none and moves nothing. They are those of
this optimizer's parameters: what it does not step in the script, the server does not step for it.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import structlog
import torch

from leeway.worker import arguments
from leeway.worker.warn import warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from leeway.worker.torch_bridge import ModelBridge
    from leeway.worker.training import TrainingSession

log = structlog.get_logger("worker")

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)

# Of what is warned of in a server's optimizer: its name in the settings, and the value with which a delta is a delta.
_NEUTRAL: Final = {"kind": "sgd", "lr": 1.0, "weight_decay": 0.0, "clip_norm": None, "lr_schedule": "constant"}

_WRAPPED: weakref.WeakKeyDictionary[torch.optim.Optimizer, Wrapping] = weakref.WeakKeyDictionary()


class Wrapping:
    """The hooks on one optimizer. `samples`: of each push; None: as they were counted, one a step where nobody counts.

    Raises `ValueError` for an optimizer that cannot be wrapped.
    """

    def __init__(
        self,
        session: TrainingSession,
        bridge: ModelBridge,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 1,
        samples: int | None = None,
        server_optimizer: bool = False,
        lr: Literal["script"] | None = None,
    ) -> None:
        self._session = session
        self._bridge = bridge
        self._owned = 0
        self._every = arguments.integer("every", every, 1, arguments.MAX_EVERY)
        self._samples = None if samples is None else arguments.samples(samples)
        self._drives_rate = lr is not None
        self._steps = 0
        self._rate: float | None = None
        self._uncounted = False
        self._over = False
        self._optimizer = inner = innermost(optimizer)
        self._on_server = server_optimizer
        self._warned = False
        if inner in _WRAPPED:
            raise ValueError("this optimizer is wrapped already; wrap it once")
        if lr not in (None, "script"):
            raise ValueError(f"lr is {lr!r}, it must be 'script', or be left out: the rate is then the server's")
        if lr and not server_optimizer:
            raise ValueError("lr='script' is for server_optimizer=True: else the script's rate is in what it pushes")
        if server_optimizer and every != 1:
            raise ValueError("every is for the script's own steps; with server_optimizer=True accumulate gradients")
        if server_optimizer and isinstance(inner, torch.optim.LBFGS):
            raise ValueError("LBFGS computes gradients of its own within a step: the server's optimizer cannot take it")

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def begin(self) -> None:
        """Look on from here. Raises `ValueError` for parameters that are not the module's.

        A step that is compiled leaves its graph for the hook: what waits for a server cannot be traced.
        """
        self._check_owned()
        _WRAPPED[self._optimizer] = self
        if self._on_server:
            self._optimizer.register_step_pre_hook(torch.compiler.disable(self._before))  # type: ignore[no-untyped-call]
            detail = f"{type(self._optimizer).__name__} finds no gradients, and moves nothing"
            log.info("the server's optimizer makes the steps", detail=detail)
        else:
            self._optimizer.register_step_post_hook(torch.compiler.disable(self._after))  # type: ignore[no-untyped-call]

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) > 1 or kwargs.get("closure"):  # the first is the optimizer
            raise ValueError("a step with a closure computes gradients within: server_optimizer=True cannot take it")
        if self._is_over() or _found_inf(optimizer):
            return
        self._unscale()
        if self._drives_rate:
            self._tell_rate(optimizer)
        self._check_owned()
        with set_aside(self._bridge.others(self.parameters)):
            self._session.step(self._weight(1))

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_over() or _found_inf(optimizer):
            return
        self._check_owned()
        self._steps += 1
        if self._steps == self._every:
            self._steps = 0
            self._session.step(self._weight(self._every), update="delta", keep_gradients=True)
            if not self._warned:
                self._warned = True
                warn_of_server(self._session.server_optimizer())

    def _check_owned(self) -> None:
        """Look again where groups have been added."""
        parameters = self.parameters
        if len(parameters) != self._owned:
            self._bridge.check_owned(parameters)
            self._owned = len(parameters)

    def _unscale(self) -> None:
        """Divide gradients by the scale that a fused optimizer would divide by within its step."""
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is not None:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(scale)

    def _is_over(self) -> bool:
        if self._session.finished and not self._over:
            self._over = True
            log.info("the run is over, steps are pushed no more", detail=str(self._session.ending))
        return self._over

    def _weight(self, steps: int) -> int:
        """What the update counts as."""
        if self._samples is not None:
            return self._samples
        if counted := self._session.samples.count:
            return counted
        if not self._uncounted:
            self._uncounted = True
            detail = "nobody counts samples, so each step counts as one: read through session.epochs, or give samples="
            log.info("updates weigh their steps", detail=detail)
        return steps

    def _tell_rate(self, optimizer: torch.optim.Optimizer) -> None:
        rates = {float(group["lr"]) for group in optimizer.param_groups}
        if len(rates) > 1:
            raise ValueError(
                f"lr='script' takes one rate for all, and this optimizer's groups have {len(rates)}: give each part a"
                " group of its own on the server"
            )
        (rate,) = rates
        # One tells it for all; a schedule is the same everywhere.
        if rate != self._rate and self._session.index == 0:
            self._session.set_learning_rate(rate)
        self._rate = rate


@contextmanager
def set_aside(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """These have no gradient for the length of the block, and then the one that they had."""
    gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that makes the steps, below what Accelerate and others put around it."""
    while isinstance(within := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = within
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{type(optimizer).__name__} is no torch.optim.Optimizer; wrap what has the method step()")
    return optimizer


def warn_of_server(settings: dict[str, Any]) -> None:
    """Say what the server's optimizer does to a delta, unless it is plain SGD with rate 1."""
    found = [f"{name} {settings[name]}" for name, neutral in _NEUTRAL.items() if settings.get(name) != neutral]
    if found:
        warn(
            f"the server's optimizer works on what this script's has done: {', '.join(found)}. A step arrives as it was"
            " made with ps-serve --optimizer sgd --lr 1, which is what a group takes whose optimizer nobody has chosen"
        )


def _found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """A fused optimizer is called by the `GradScaler` also where it is not to step, and told so."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())
