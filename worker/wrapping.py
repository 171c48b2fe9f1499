"""A script's own optimizer as a worker: what each of its steps has done is pushed, and what the server has is pulled.

The one rule: the script stays as it is. Its optimizer, schedule, clipping, scaler and accumulation act as before; this
looks on through torch's hooks, between a step and what follows it.

    optimizer = leeway.wrap(optimizer, model)

What is pushed is a `delta`, pulled minus local. For float32 and float64 the server's `pulled - delta` is then the local
value again, bit by bit, as long as a step is one subtraction (Dekker 1971, theorem 4.7, and Sterbenz's lemma).
A step that was interrupted while it was pushed is completed by the next call, whose own gradients are not used: they
may be those that the optimizer has stepped with already.
With `server_optimizer` gradients are pushed before the step, which then finds none and moves nothing. They are those of
this optimizer's parameters: what it does not step in the script, the server does not step for it. A step with a closure
has it computed then: what a framework does to gradients within, such as clipping, is done before the push.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

import structlog
import torch

from leeway.protocol.pushes import Disposition
from leeway.worker import arguments
from leeway.worker.gradients import put_back, set_aside, taken_off
from leeway.worker.no_effect import Carrier
from leeway.worker.parts import waiting_first
from leeway.worker.server_steps import tell_whose_steps, warn_of_server
from leeway.worker.session.states import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from torch.utils.hooks import RemovableHandle

    from leeway.worker.part import Part
    from leeway.worker.training import TrainingSession

log = structlog.get_logger("worker")

P = ParamSpec("P")
T = TypeVar("T")
Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)
Model: TypeAlias = "torch.nn.Module | Mapping[str, torch.nn.Module]"
"""One module, or several parts by their names."""

# Those whose steps are a session's own. Weak, both ways: the hooks on an optimizer keep its wrapping.
WRAPPED: weakref.WeakKeyDictionary[torch.optim.Optimizer, weakref.ref[Wrapping]] = weakref.WeakKeyDictionary()


class Wrapping:
    """The hooks on one optimizer. `samples`: of each push; None: as they were counted, one a step where nobody counts.

    Raises `ValueError` for an optimizer that cannot be wrapped, and for wrong arguments.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 1,
        samples: int | None = None,
        server_optimizer: bool = False,
        lr: Literal["script"] | None = None,
    ) -> None:
        self._session: TrainingSession
        self._hooks: list[RemovableHandle] = []
        self._owned: tuple[int, ...] | None = None
        # Those of the session's parts that the optimizer has parameters of.
        self._parts: list[Part] = []
        # Those that a step has still to push: where it was interrupted, the next call goes on with them.
        self._left: list[Part] = []
        self._aside: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._unscaled: dict[int, torch.Tensor] = {}
        self._every = arguments.integer("every", every, 1, arguments.MAX_EVERY)
        self._samples = None if samples is None else arguments.samples(samples)
        self._on_server = arguments.boolean("server_optimizer", server_optimizer)
        self._drives_rate = lr is not None
        self._steps = 0
        self._rates: dict[str, float] = {}
        self._uncounted = False
        self._told_over = False
        self._given = optimizer
        self._optimizer = inner = innermost(optimizer)
        self._carrier = Carrier(inner, drives_rate=lr is not None)
        self._warned: set[str] = set()
        if not self.parameters:
            raise ValueError("the optimizer has no parameters; add them before it is wrapped")
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

    def check(self, model: Model) -> None:
        """Raise `ValueError` for a model that the optimizer has parameters beside."""
        modules = modules_of(model)
        if all(isinstance(module, torch.nn.Module) for module in modules):
            self._check_among({id(parameter) for module in modules for parameter in module.parameters()})

    def begin(self, session: TrainingSession, model: Model | None) -> None:
        """Look on from here; attach the model, unless one is. Raises `ValueError` for an optimizer that another open
        session looks at, for another model than the one attached, and for parameters that are not of it.

        A step that is compiled leaves its graph for the hook: what waits for a server cannot be traced.
        """
        before = WRAPPED.get(self._optimizer, _nobody)()
        if before is not None and not before._session.client.closed:
            raise ValueError("this optimizer is wrapped already; wrap it once")
        if not any(part.attached for part in session.parts.values()):
            if model is None:
                raise ValueError("no model is attached; give the model whose parameters the optimizer has")
            self.check(model)
            session.attach(model)
        elif model is not None and not _is_attached(session, model):
            raise ValueError(
                "another model is attached already; several are parts of one session, attached together:"
                " attach({'G': ..., 'D': ...})"
            )
        self._session = session
        self._check_owned()
        if before is not None:
            for hook in before._hooks:
                hook.remove()
        WRAPPED[self._optimizer] = weakref.ref(self)
        if self._on_server:
            self._hooks = [self._optimizer.register_step_pre_hook(untraced(self._before))]
            tell_whose_steps(self._optimizer, {part.name: session.server_optimizer(part.name) for part in self._parts})
        else:
            self._hooks = [
                self._optimizer.register_step_pre_hook(untraced(self._again)),
                self._optimizer.register_step_post_hook(untraced(self._after)),
            ]
        self._given.session = session  # type: ignore[attr-defined]  # torch names no such attribute

    def _before(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._is_over() or _found_inf(optimizer):
            return None
        self._carrier.look(optimizer)
        computed = _computed(args, kwargs)
        self._unscale()
        self._check_owned()
        if self._drives_rate:
            self._tell_rates(optimizer)
        with set_aside(other for part in self._parts for other in part.bridge.others(self.parameters)):
            self._left = self._left or self._going(lambda parameter: parameter.grad is not None)
            self._see_through(lambda part: self._session.step(part.name, self._weight(part, 1)))
        self._unscaled.clear()
        for parameter in self.parameters:
            parameter.grad = None  # of a part that the interrupted call had pushed already
        return computed

    def _again(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A step after one that was interrupted behind its own: it moves nothing."""
        if not self._left or self._is_over():
            return None
        computed = _computed(args, kwargs)
        self._aside = taken_off(self.parameters)
        return computed

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        aside, self._aside = self._aside, []
        try:
            if self._is_over() or _found_inf(optimizer):
                return
            self._check_owned()
            if not self._left:
                self._steps += 1
                if self._steps < self._every:
                    return
                self._steps = 0
                self._left = self._going(lambda parameter: parameter.requires_grad)
            self._see_through(self._push)
        finally:
            put_back(aside)

    def _see_through(self, push: Callable[[Part], object]) -> None:
        """Push what is left of a step. Nothing is, where the fault is the user's: what comes next is another step."""
        try:
            for part in list(self._left):
                push(part)
                self._left.remove(part)
        except ValueError:
            self._left = []
            raise

    def _push(self, part: Part) -> None:
        """What the steps did to this part."""
        outcome = self._session.step(part.name, self._weight(part, self._every), update="delta", keep_gradients=True)
        taken = not outcome.dropped and outcome.disposition is not Disposition.SKIPPED
        if taken and part.name not in self._warned:
            # After the first update: by that a group whose optimizer nobody chose has settled on one.
            self._warned.add(part.name)
            warn_of_server(self._session.server_optimizer(part.name))

    def _going(self, moved: Callable[[torch.nn.Parameter], bool]) -> list[Part]:
        """The parts of which this step is an iteration: those with a parameter that it has moved. Those first that may
        have to wait.
        """
        owned = set(self._owned or ())
        going = [part for part in self._parts if not part.finished]
        stepped = [
            part
            for part in going
            if any(id(parameter) in owned and moved(parameter) for parameter in part.bridge.parameters)
        ]
        return waiting_first(stepped or going)

    def _check_owned(self) -> None:
        """Look again where groups have been added."""
        parameters = self.parameters
        owned = tuple(map(id, parameters))
        if owned == self._owned:
            return
        ours = {part: {id(parameter) for parameter in part.bridge.parameters} for part in self._session.parts.values()}
        self._check_among(set().union(*ours.values()))
        self._parts = [part for part, own in ours.items() if any(id(parameter) in own for parameter in parameters)]
        self._owned = owned

    def _check_among(self, ours: Container[int]) -> None:
        if strange := sum(id(parameter) not in ours for parameter in self.parameters):
            raise ValueError(
                f"{strange} of the optimizer's parameters are not of the model that is attached: a model and its"
                " optimizer go together; several models are parts of one session, attach({'G': ..., 'D': ...})"
            )

    def _unscale(self) -> None:
        """Divide gradients by the scale that a fused optimizer would divide by within its step."""
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is not None:
            for parameter in self.parameters:
                gradient = parameter.grad
                # An interrupted call may have divided it already.
                if gradient is not None and id(gradient) not in self._unscaled:
                    self._unscaled[id(gradient)] = gradient.div_(scale)

    def _is_over(self) -> bool:
        """Said once. A part goes on where a server came back from before its end."""
        over = all(part.finished for part in self._parts)
        if over and not self._told_over:
            self._told_over = True
            part = self._parts[0]
            what = "the run" if self._session.finished else ", ".join(part.name for part in self._parts)
            what = f"{what} is over" if part.ending is Ending.FINISHED else "this session has ended"
            log.info(f"{what}, steps are pushed no more", detail=part.ending_detail or str(part.ending))
        return over

    def _weight(self, part: Part, steps: int) -> int:
        """What the update counts as."""
        if self._samples is not None:
            return self._samples
        if counted := self._session.samples.of(part.name) or self._session.samples.before(part.name):
            return counted
        # It matters where updates are averaged.
        if not self._uncounted and part.policy == "sync" and part.count > 1:
            self._uncounted = True
            detail = "nobody has said how many samples are in them: read through session.epochs, or give samples="
            named = {"part": part.name} if len(self._session.parts) > 1 else {}
            log.info("all updates weigh the same", **named, detail=detail)
        return steps

    def _tell_rates(self, optimizer: torch.optim.Optimizer) -> None:
        for part in self._parts:
            own = {id(parameter) for parameter in part.bridge.parameters}
            rates = {
                float(group["lr"])
                for group in optimizer.param_groups
                if any(id(parameter) in own for parameter in group["params"])
            }
            if len(rates) > 1:
                raise ValueError(
                    f"lr='script' takes one rate for all that a part has, and in {part.name} this optimizer has"
                    f" {len(rates)}: make a part of what has a rate of its own, attach({{'head': ..., 'body': ...}})"
                )
            (rate,) = rates
            # One tells it for all; a schedule is the same everywhere.
            if rate != self._rates.get(part.name) and part.index == 0:
                self._session.set_learning_rate(rate, part.name)
            self._rates[part.name] = rate


def _nobody() -> None:
    """What a reference gives that leads nowhere."""


def modules_of(model: Model) -> list[torch.nn.Module]:
    return list(model.values()) if isinstance(model, Mapping) else [model]


def _is_attached(session: TrainingSession, model: Model) -> bool:
    ours = {id(parameter) for part in session.parts.values() for parameter in part.bridge.parameters}
    return all(any(id(parameter) in ours for parameter in module.parameters()) for module in modules_of(model))


def untraced(hook: Callable[P, T]) -> Callable[P, T]:
    """Outside the graph of a compiled step."""
    return torch.compiler.disable(hook)  # type: ignore[no-any-return, no-untyped-call]  # torch has no types here


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that makes the steps, below what Accelerate and others put around it."""
    while isinstance(within := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = within
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"{type(optimizer).__name__} is no torch.optim.Optimizer; wrap what has the method step()")
    return optimizer


def _computed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a step, the optimizer first; its closure has been called here, and only says its loss again."""
    optimizer, closure = args[0], args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    return (optimizer,), kwargs | {"closure": lambda: loss}


def _found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """A fused optimizer is called by the `GradScaler` also where it is not to step, and told so."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())
