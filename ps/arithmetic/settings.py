"""What an optimizer is told: kind, rates, schedule. No torch: reading a configuration stays quick.

The one rule: settings that exist are valid; whatever a user wrote wrong is a `BadSetting` (a `ValueError`) that names
the field, the value and the limit. The server's flags and file are judged here too.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from leeway.protocol.fields import shown
from leeway.ps.arithmetic.schedules import Schedule, cosine, linear, staircase, warmup

if TYPE_CHECKING:
    from collections.abc import Mapping

# A rate above this is a slip of the pen: the first step would overflow float32 for gradients of 1e32.
MAX_RATE = 1e6

# Fits any counter on the wire and in a file.
MAX_STEPS = 2**53 - 1


class BadSetting(ValueError):
    """`field` is wrong, and `problem` says how, in words that follow its name: "is -1; it must be ..."."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem


class OptimizerKind(StrEnum):
    SGD = "sgd"
    MOMENTUM = "momentum"
    NESTEROV = "nesterov"
    ADAM = "adam"
    ADAMW = "adamw"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    ADADELTA = "adadelta"


# Schedules that go down to `min_lr` in so many steps.
_WITH_LENGTH = (Schedule.COSINE, Schedule.LINEAR)

# Without momentum they are plain sgd, under another name and with a state that does nothing.
_MOMENTUM_NEEDED = (OptimizerKind.MOMENTUM, OptimizerKind.NESTEROV)
_DEFAULT_MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Names are those of `torch.optim`; the defaults are the server's, and weight decay is off until asked for.

    `momentum` belongs to momentum and nesterov (None: 0.9) and to rmsprop (None: without), `betas` to adam and adamw,
    `alpha` and `centered` to rmsprop, `rho` to adadelta, `eps` (None: torch's default) to adam, adamw, adagrad, rmsprop
    and adadelta. `decay_vectors`: weight decay acts on biases and norms too (tensors of fewer than two dimensions).
    `clip_norm`: the largest norm of a step's whole gradient. `schedule_steps` belongs to the cosine and the linear
    schedule, `step_every` and `gamma` to the step schedule; all begin behind the warm-up, and none goes below `min_lr`.
    `delta_scale`: what a delta that takes effect on arrival is multiplied with (None: 1 / the number of
    workers, which the server knows).
    """

    kind: OptimizerKind = OptimizerKind.SGD
    lr: float = 0.1
    momentum: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    alpha: float = 0.99
    rho: float = 0.9
    centered: bool = False
    eps: float | None = None
    weight_decay: float = 0.0
    decay_vectors: bool = False
    clip_norm: float | None = None
    lr_schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0
    schedule_steps: int | None = None
    step_every: int | None = None
    gamma: float = 0.1
    min_lr: float = 0.0
    delta_scale: float | None = None

    def __post_init__(self) -> None:
        # Whole numbers become floats here: torch refuses an integer that does not fit 64 bits, in the middle of a step.
        for name, least, most, how in _NUMBERS:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, _number(name, value, least, most, **how))
        betas = tuple(
            _number(f"betas[{place}]", beta, 0.0, 1.0, open_above=True)
            for place, beta in enumerate(_pair("betas", self.betas))
        )
        object.__setattr__(self, "betas", betas)
        if self.momentum == 0 and self.kind in _MOMENTUM_NEEDED:
            raise BadSetting("momentum", f"is 0; it must be above 0 and below 1, and {self.kind} without it is sgd")
        _flag("centered", self.centered)
        _flag("decay_vectors", self.decay_vectors)
        _count("warmup_steps", self.warmup_steps, 0)
        if self.schedule_steps is not None:
            _count("schedule_steps", self.schedule_steps, 1)
        if self.step_every is not None:
            _count("step_every", self.step_every, 1)
        if self.lr_schedule in _WITH_LENGTH and (
            self.schedule_steps is None or self.schedule_steps <= self.warmup_steps
        ):
            raise BadSetting(
                "schedule_steps",
                f"is {self.schedule_steps}; the {self.lr_schedule} schedule needs the number of steps after which the "
                f"rate is at its lowest, more than the {self.warmup_steps} of the warm-up",
            )
        if self.lr_schedule is Schedule.STEP and self.step_every is None:
            raise BadSetting(
                "step_every", "is missing; the step schedule multiplies the rate by gamma every so many steps"
            )
        if self.lr_schedule is not Schedule.CONSTANT and self.min_lr > self.lr:
            raise BadSetting("min_lr", f"is {self.min_lr:g}; a floor must be at most the rate, and lr is {self.lr:g}")

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """From plain data, as `to_fields` gives it; what is absent is the default. Raises `ValueError`."""
        return cls().changed(fields)

    def changed(self, fields: Mapping[str, Any]) -> Self:
        """These settings with some fields changed, from plain data. Raises `ValueError`."""
        known = {field.name: field for field in dataclasses.fields(self)}
        values: dict[str, Any] = {}
        for name, value in fields.items():
            if name not in known:
                raise ValueError(f"an optimizer has no setting {shown(name)}; known are {', '.join(known)}")
            values[name] = _read(name, value)
        return dataclasses.replace(self, **values)

    def reconfigured(self, fields: Mapping[str, Any]) -> Self:
        """These settings with some fields changed, for an optimizer that goes on. Raises `ValueError`, for another kind
        too.
        """
        wanted = self.changed(fields)
        if wanted.kind is not self.kind:
            raise ValueError(
                f"kind is {wanted.kind}; a running optimizer stays {self.kind}, for its state is of no"
                " use to another. Restart the server to change it"
            )
        return wanted

    def to_fields(self) -> dict[str, Any]:
        """As plain data for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "kind": str(self.kind),
            "lr_schedule": str(self.lr_schedule),
            "betas": list(self.betas),
        }

    def learning_rate(self, step: int) -> float:
        """The rate of the step with this index, from 0: the warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.lr * warmup(step, self.warmup_steps)
        step -= self.warmup_steps
        if self.lr_schedule in _WITH_LENGTH:
            assert self.schedule_steps is not None
            fall = cosine if self.lr_schedule is Schedule.COSINE else linear
            left = fall(step, self.schedule_steps - self.warmup_steps)
            return self.min_lr + (self.lr - self.min_lr) * left
        if self.lr_schedule is Schedule.STEP:
            assert self.step_every is not None
            return max(self.min_lr, self.lr * staircase(step, self.step_every, self.gamma))
        return self.lr

    @property
    def applied_momentum(self) -> float:
        """The momentum that steps are made with; 0 for a kind that has none."""
        if self.kind in _MOMENTUM_NEEDED:
            return _DEFAULT_MOMENTUM if self.momentum is None else self.momentum
        return (self.momentum or 0.0) if self.kind is OptimizerKind.RMSPROP else 0.0

    def __str__(self) -> str:
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.name not in ("kind", "lr") and getattr(self, field.name) != field.default
        ]
        return " ".join([f"{self.kind} lr={self.lr:g}", *changed])


_ABOVE: Mapping[str, bool] = MappingProxyType({"open_below": True})
_BELOW: Mapping[str, bool] = MappingProxyType({"open_above": True})
_BETWEEN: Mapping[str, bool] = MappingProxyType({"open_below": True, "open_above": True})

_NUMBERS: tuple[tuple[str, float, float, Mapping[str, bool]], ...] = (
    ("lr", 0.0, MAX_RATE, {}),
    ("momentum", 0.0, 1.0, _BELOW),
    ("alpha", 0.0, 1.0, _BELOW),
    ("rho", 0.0, 1.0, _BELOW),
    ("eps", 0.0, 1.0, _ABOVE),
    ("weight_decay", 0.0, 1.0, {}),
    ("clip_norm", 0.0, math.inf, _BETWEEN),
    ("gamma", 0.0, 1.0, _ABOVE),
    ("min_lr", 0.0, MAX_RATE, {}),
    ("delta_scale", 0.0, MAX_RATE, _ABOVE),
)

_OPTIONAL = ("momentum", "eps", "clip_norm", "delta_scale")


def _number(
    name: str, value: float, least: float, most: float, *, open_below: bool = False, open_above: bool = False
) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An integer beyond the largest float is as good as infinite, and cannot be shown either.
        number = math.inf if isinstance(value, int) and value.bit_length() > 1023 else float(value)
        low = least < number if open_below else least <= number
        if low and (number < most if open_above else number <= most):
            return number
    above = f"above {least:g}" if open_below else f"at least {least:g}"
    below = f" and {'below' if open_above else 'at most'} {most:g}" if most < math.inf else " and finite"
    raise BadSetting(name, f"is {shown(value)}; it must be a number {above}{below}")


def _count(name: str, value: int, least: int) -> None:
    if type(value) is not int or not least <= value <= MAX_STEPS:
        raise BadSetting(name, f"is {shown(value)}; it must be an integer from {least} to 2^53 - 1")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise BadSetting(name, f"is {shown(value)}; it must be true or false")


def _pair(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise BadSetting(name, f"is {shown(value)}; it must be two numbers, as in [0.9, 0.999]")
    return tuple(value)


def _read(name: str, value: Any) -> Any:
    """A field of plain data in its own type; what `__post_init__` judges is passed on as it is."""
    if name in ("kind", "lr_schedule"):
        choices = OptimizerKind if name == "kind" else Schedule
        if value not in tuple(choices):
            raise BadSetting(name, f"is {shown(value)}; it must be one of {', '.join(choices)}")
        return choices(value)
    return value
