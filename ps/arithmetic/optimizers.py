"""Steps from one version's body into the next one's.

The one rule: an old body is never written to, and the numbers are those of a plain `torch.optim` loop over
the same gradients, in float32 for what is trained in half precision (see `values`). A parameter without a gradient is
left alone: value, momentum, decay and its own count of steps.

torch.optim works in place, so the old values are copied and stepped in the new body. Plain SGD keeps no
state and goes straight from old to new in one pass, whole runs at a time (100 MiB: 7 ms instead of 10).

A step that fails can be put back. All that may run out of memory or be of the wrong type comes before torch writes to
its state; if torch fails while it writes, the state begins anew, and whoever asks is told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from leeway.protocol.tensors import Kind
from leeway.ps.arithmetic.moments import check_squares
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from leeway.protocol.spans import Layout, Place, Span
    from leeway.ps.arithmetic.runs import Run
    from leeway.ps.arithmetic.values import Values

_CLASSES: Mapping[OptimizerKind, Any] = {
    OptimizerKind.MOMENTUM: torch.optim.SGD,
    OptimizerKind.NESTEROV: torch.optim.SGD,
    OptimizerKind.ADAM: torch.optim.Adam,
    OptimizerKind.ADAMW: torch.optim.AdamW,
    OptimizerKind.ADAGRAD: torch.optim.Adagrad,
    OptimizerKind.RMSPROP: torch.optim.RMSprop,
    OptimizerKind.ADADELTA: torch.optim.Adadelta,
}

# torch has no fused step of these; tensor by tensor is what a plain loop on a CPU does.
_NOT_FUSED = (OptimizerKind.RMSPROP, OptimizerKind.ADADELTA)

# What torch keeps per parameter, under its names. Those called `step` are scalars, the others of the
# parameter's shape.
_STATE_NAMES: Mapping[OptimizerKind, tuple[str, ...]] = {
    OptimizerKind.SGD: (),
    OptimizerKind.MOMENTUM: ("momentum_buffer",),
    OptimizerKind.NESTEROV: ("momentum_buffer",),
    OptimizerKind.ADAM: ("step", "exp_avg", "exp_avg_sq"),
    OptimizerKind.ADAMW: ("step", "exp_avg", "exp_avg_sq"),
    OptimizerKind.ADAGRAD: ("step", "sum"),
    OptimizerKind.RMSPROP: ("step", "square_avg"),
    OptimizerKind.ADADELTA: ("step", "square_avg", "acc_delta"),
}

# What rmsprop keeps besides, with the settings that ask for it.
_ASKED_FOR: Mapping[str, Callable[[OptimizerSettings], bool]] = {
    "momentum_buffer": lambda settings: settings.applied_momentum > 0,
    "grad_avg": lambda settings: settings.centered,
}

# They divide by the root of what squares of gradients add up to.
_WITH_SQUARES = (
    *(OptimizerKind.ADAM, OptimizerKind.ADAMW, OptimizerKind.ADAGRAD),
    *(OptimizerKind.RMSPROP, OptimizerKind.ADADELTA),
)

State = dict[str, torch.Tensor]


class StateLost(RuntimeError):
    """A step failed while torch was writing to the optimizer's state, which has begun anew; values are as before."""


class Optimizer:
    """The optimizer of one group. Belongs to its applier thread."""

    def __init__(self, settings: OptimizerSettings, layout: Layout, values: Values) -> None:
        self._settings = settings
        self._steps = 0
        # Of the step under way, or the last one: how it can be put back.
        self._steps_before = 0
        self._fresh: list[torch.nn.Parameter] = []
        self._writing = False
        self._spans: Sequence[Span] = ()
        if settings.kind is not OptimizerKind.SGD:
            # With the first optimizer torch imports its compiler, which takes a second: at the start, not when
            # the first parameters arrive and everybody is waiting.
            torch.optim.SGD([torch.zeros(1)])
        self._lay_out(layout, values, {})

    @property
    def settings(self) -> OptimizerSettings:
        return self._settings

    @property
    def steps(self) -> int:
        """Steps made so far: the index of the next one, for the schedule."""
        return self._steps

    def step(self, old: Values, new: Values, gradient: Sequence[Run]) -> float:
        """Fill the trainable part of `new` with the values of `old` after one step; return the learning rate used.

        `gradient` holds trainable tensors, in the order of the layout, without overlap, and is as wide as they are:
        float32 for half precision. After an exception, or where the step is not to count after all, `put_back` undoes
        it.
        """
        self._steps_before, self._writing = self._steps, False
        self._fresh.clear()
        rate = self._settings.learning_rate(self._steps)
        new.copy_masters(old)
        if self._settings.kind is OptimizerKind.SGD:
            self._descend(old, new, gradient, rate)
        else:
            new.body.copy(old.body, 0, self._trainable_bytes)
            self._step_torch(new, gradient, rate)
        new.round()
        self._steps += 1
        return rate

    def put_back(self, old: Values) -> bool:
        """Undo the last step, whose values have come from `old`. False: its state could not be, and begins anew."""
        self._steps = self._steps_before
        for place, parameter in zip(self._places(), self._parameters.values(), strict=False):
            parameter.data, parameter.grad = old.tensor(place), None
        if self._torch is None:
            return True
        for parameter in self._fresh:
            self._torch.state.pop(parameter, None)
        if self._writing:
            self._build({}, self._parameters)
        return not self._writing

    def assign(self, new: Values, runs: Sequence[Run]) -> None:
        """After a step: set these trainable tensors in `new`, and their masters. Momentum and counts of steps stay."""
        for run in runs:
            new.flat(run).copy_(run.values)
            run.within(new.body).copy_(run.values)

    def configure(self, settings: OptimizerSettings) -> None:
        """Go on with other settings of the same kind from the next step; the state is kept."""
        assert settings.kind is self._settings.kind, "its state is of no use to another kind"
        states, before = self._states(), self._settings
        self._settings = settings
        try:
            self._build(states, self._parameters)
        except BaseException:
            self._settings = before
            raise

    def extend(self, layout: Layout, values: Values) -> None:
        """Go on with a larger layout; what was known keeps its state."""
        self._lay_out(layout, values, self._states())

    def save(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The state as copies, named `<state>/<key>`, and as plain data what is no tensor."""
        tensors = {
            f"{state_name}/{name}": value.clone()
            for name, state in self._states().items()
            for state_name, value in state.items()
        }
        return tensors, {"steps": self._steps, "settings": self._settings.to_fields()}

    def load(self, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
        """Take over a saved state. Raises `ValueError` when it is not of this kind and layout."""
        saved = metadata.get("settings", {}).get("kind")
        if saved != self._settings.kind:
            raise ValueError(
                f"the saved state is of optimizer {saved!r}, the server runs {str(self._settings.kind)!r}; start"
                f" with --optimizer {saved}, or without the saved state"
            )
        places = {place.spec.name: place for place in self._places()}
        states: dict[str, State] = {}
        for tensor_name, tensor in tensors.items():
            state_name, _, name = tensor_name.partition("/")
            place = places.get(name)
            if place is None or state_name not in _known_states(self._settings.kind):
                raise ValueError(f"the saved state {tensor_name!r} belongs to no parameter of this model")
            expected = () if state_name == "step" else place.spec.shape
            if tuple(tensor.shape) != expected:
                raise ValueError(
                    f"the saved state {tensor_name!r} has shape {tuple(tensor.shape)}, it must be {expected}"
                )
            # What was saved before there were masters is as narrow as the parameter.
            dtype = torch.float32 if state_name == "step" else self._parameters[name].dtype
            states.setdefault(name, {})[state_name] = tensor.to(dtype, copy=True)
        for name, state in states.items():
            missing = set(_STATE_NAMES[self._settings.kind]) - state.keys()
            if missing:
                raise ValueError(f"the saved state of {name!r} lacks {', '.join(sorted(missing))}")
        self._steps = int(metadata.get("steps", 0))
        self._build(states, self._parameters)

    def _decay(self, span: Span) -> float:
        return self._settings.weight_decay if span.decayed or self._settings.decay_vectors else 0.0

    def _descend(self, old: Values, new: Values, gradient: Sequence[Run], rate: float) -> None:
        """Plain SGD, out of place."""
        copied_bytes = 0
        for run in gradient:
            new.body.copy(old.body, copied_bytes, run.start_bytes - copied_bytes)
            copied_bytes = run.end_bytes
            _descend(old.flat(run), new.flat(run), run.values, rate, self._decay(run.span))
        new.body.copy(old.body, copied_bytes, self._trainable_bytes - copied_bytes)

    def _step_torch(self, new: Values, gradient: Sequence[Run], rate: float) -> None:
        if self._torch is None:
            assert not gradient, "a gradient for a group without parameters"
            return
        if self._settings.kind in _WITH_SQUARES:
            check_squares(gradient)
        for place, parameter in zip(self._places(), self._parameters.values(), strict=True):
            parameter.data = new.tensor(place)
        stepped = []
        for run in gradient:
            for place, values in run.tensors():
                parameter = self._parameters[place.spec.name]
                parameter.grad = values
                stepped.append(parameter)
                if not self._torch.state[parameter]:
                    # Here and not in torch's step, so that what lacks memory fails before anything is written, and
                    # because torch's fused SGD takes first steps only of all parameters at once. From zero it is
                    # the same.
                    self._fresh.append(parameter)
                    self._torch.state[parameter] = _state(parameter, self._settings, {})
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._writing = True
        self._torch.step()
        # What was sent is nobody's any more: its memory can go to the next update.
        for parameter in stepped:
            parameter.grad = None

    def _places(self) -> Iterator[Place]:
        return (place for span in self._spans for place in span.places)

    def _lay_out(self, layout: Layout, values: Values, states: Mapping[str, State]) -> None:
        spans = [span for span in layout.spans if span.kind is Kind.TRAINABLE]
        # Plain SGD has no use for them, and they would pin this body: only a torch step moves them on.
        parameters = {
            place.spec.name: torch.nn.Parameter(values.tensor(place))
            for span in spans
            for place in span.places
            if self._settings.kind is not OptimizerKind.SGD
        }
        self._build(states, parameters, spans)

    def _build(
        self,
        states: Mapping[str, State],
        parameters: dict[str, torch.nn.Parameter],
        spans: Sequence[Span] | None = None,
    ) -> None:
        """Make torch's optimizer anew, one parameter group a span, with these states."""
        spans = self._spans if spans is None else spans
        optimizer: torch.optim.Optimizer | None = None
        if parameters:
            groups = [
                {
                    "params": [parameters[place.spec.name] for place in span.places],
                    "weight_decay": self._decay(span),
                    **({"foreach": False} if self._settings.kind in _NOT_FUSED else {"fused": True}),
                }
                for span in spans
            ]
            optimizer = _CLASSES[self._settings.kind](groups, **_arguments(self._settings))
            # Adagrad has made states already; all others wait for a parameter's first step, and so do ours.
            optimizer.state.clear()
            for name, state in states.items():
                optimizer.state[parameters[name]] = _state(parameters[name], self._settings, state)
        self._torch, self._parameters, self._spans = optimizer, parameters, spans
        self._trainable_bytes = spans[-1].end_bytes if spans else 0

    def _states(self) -> dict[str, State]:
        if self._torch is None:
            return {}
        states = {name: self._torch.state.get(parameter) for name, parameter in self._parameters.items()}
        return {name: dict(state) for name, state in states.items() if state}


def _descend(old: torch.Tensor, new: torch.Tensor, gradient: torch.Tensor, rate: float, decay: float) -> None:
    """torch.optim.SGD's own operations: g += decay * p; p -= rate * g."""
    if decay:
        gradient = torch.add(gradient, old, alpha=decay, out=new)
    torch.add(old, gradient, alpha=-rate, out=new)


def _arguments(settings: OptimizerSettings) -> dict[str, Any]:
    """torch's names for what belongs to the kind; rate, decay and fusing are said per step and per group."""
    kind = settings.kind
    if kind in (OptimizerKind.MOMENTUM, OptimizerKind.NESTEROV):
        return {"momentum": settings.applied_momentum, "nesterov": kind is OptimizerKind.NESTEROV}
    arguments: dict[str, Any] = {} if settings.eps is None else {"eps": settings.eps}
    if kind in (OptimizerKind.ADAM, OptimizerKind.ADAMW):
        arguments["betas"] = settings.betas
    elif kind is OptimizerKind.RMSPROP:
        arguments |= {"alpha": settings.alpha, "momentum": settings.applied_momentum, "centered": settings.centered}
    elif kind is OptimizerKind.ADADELTA:
        arguments["rho"] = settings.rho
    return arguments


def _state(parameter: torch.nn.Parameter, settings: OptimizerSettings, known: State) -> State:
    """What these settings keep of a parameter: as it is known, and else from zero."""
    names = list(_STATE_NAMES[settings.kind])
    if settings.kind is OptimizerKind.RMSPROP:
        names += [name for name, asks in _ASKED_FOR.items() if asks(settings)]
    return {name: known[name] if name in known else _zero(name, parameter) for name in names}


def _zero(name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros((), dtype=torch.float32) if name == "step" else torch.zeros_like(parameter)


def _known_states(kind: OptimizerKind) -> tuple[str, ...]:
    """All that the kind can keep, for what is loaded may have been saved with other settings."""
    return (*_STATE_NAMES[kind], *(_ASKED_FOR if kind is OptimizerKind.RMSPROP else ()))
