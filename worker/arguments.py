"""What a training loop hands in, checked and made plain before anything is begun with it.

The one rule: an argument is taken or refused here, with its name, its value and what is allowed; what has passed can be
encoded, so that no update is ever in hand that cannot be sent.

Numbers may come in any clothes: whatever `operator.index` takes, numpy's scalars, tensors of one element. A bool is no
number: it is a comparison that was meant to be counted. What raises when it is asked for its number has none, whatever
it raises.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, TypeVar

from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER, shown
from leeway.protocol.frames import flat
from leeway.protocol.limits import MAX_METRIC_NAME_BYTES
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.ranks import NAME_WORDS, is_rank
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import TensorSpec
from leeway.protocol.times import StepTimes
from leeway.transport.channel import Tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

# Local steps between two pushes: beyond this nobody would see the others' work.
MAX_EVERY = 1_000_000


def samples(value: Any) -> int:
    """The weight of an update."""
    return integer("samples", value, 1, MAX_INTEGER, "; an iteration without any is a skip()")


def parties(value: Any, name: str = "parties") -> int:
    return integer(name, value, 1, limits.MAX_RANKS)


def integer(name: str, value: Any, minimum: int, maximum: int, hint: str = "") -> int:
    plain = _plain(value)
    try:
        number = None if isinstance(plain, bool) else operator.index(plain)
    except Exception:
        number = None
    if number is None:
        raise ValueError(f"{name} is {shown(value)}, it must be an integer from {minimum} to {maximum}{hint}")
    if not minimum <= number <= maximum:
        least = f"at least {minimum}" if number < minimum else f"at most {maximum}"
        raise ValueError(f"{name} is {shown(number)}, it must be {least}{hint}")
    return number


def text(name: str, value: Any, example: str) -> str | None:
    """None where none is given: None, or empty text, as a variable that is not set becomes."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, it must be text such as {example}")
    return value or None


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}, it must be True or False")
    return value


def seconds(name: str, value: Any, maximum: float = math.inf, *, zero: bool = False) -> float:
    """A duration: above 0 (or, with `zero`, from there) and at most `maximum`."""
    number = _number(value)
    if number is None or not 0 <= number <= maximum or (number == 0 and not zero):
        least = "0 or more" if zero else "above 0"
        most = f" and at most {maximum:g}" if maximum < math.inf else ""
        raise ValueError(f"{name} is {shown(value)}, it must be a number of seconds {least}{most}")
    return number


def metrics(value: Mapping[str, Any] | None) -> dict[str, float]:
    """What is reported with an update. NaN and infinity may be: a loss that has diverged is news."""
    if value is None:
        return {}
    try:
        given = dict(value)
    except (TypeError, ValueError):
        raise ValueError(f"metrics is {shown(value)}, it must map names to numbers") from None
    if len(given) > limits.MAX_REPORTED_METRICS:
        raise ValueError(f"metrics has {len(given)} names, it may have {limits.MAX_REPORTED_METRICS}")
    numbers = {}
    for name, reported in given.items():
        if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name.encode()) <= MAX_METRIC_NAME_BYTES:
            allowed = f"printable text of 1 to {MAX_METRIC_NAME_BYTES} bytes"
            raise ValueError(f"metrics has the name {shown(name)}, it must be {allowed}")
        number = _number(reported)
        if number is None:
            raise ValueError(f"metrics[{name!r}] is {shown(reported)}, it must be one number")
        numbers[str(name)] = number
    return numbers


def tensors(value: Any) -> Tensors:
    """What an update is made of. Whether it can be encoded is for `encode` to say."""
    if not isinstance(value, Tensors):
        allowed = "leeway.Tensors(layout, buffers)"
        raise ValueError(f"tensors is {shown(value)}, it must be {allowed}; an iteration without any is a skip()")
    if not isinstance(value.layout, Layout):
        raise ValueError(f"the layout of tensors is {shown(value.layout)}, it must be a leeway.Layout")
    _each("the values of tensors", value.values, str, "names")
    try:
        for buffer in value.buffers:
            flat(buffer)
    except (TypeError, ValueError):
        words = shown(value.buffers)
        raise ValueError(f"the buffers of tensors are {words}, they must be contiguous bytes, one or several") from None
    return value


def times(value: Any) -> StepTimes | None:
    if value is not None and not isinstance(value, StepTimes):
        raise ValueError(f"times is {shown(value)}, it must be the times of a step, or None")
    return value


def specs(value: Any) -> tuple[TensorSpec, ...]:
    return _each("specs", value, TensorSpec, "leeway.TensorSpec")


def aliases(value: Any) -> dict[str, tuple[str, ...]]:
    """Further names, by the name that a tensor has."""
    try:
        given = {} if value is None else dict(value)
    except (TypeError, ValueError):
        raise ValueError(f"aliases is {shown(value)}, it must map names to further names") from None
    return {name: _each(f"aliases[{shown(name)}]", names, str, "names") for name, names in given.items()}


def rate(value: Any) -> float:
    """A learning rate: also numpy's, or a tensor of one element."""
    number = _number(value)
    if number is None or not (math.isfinite(number) and number >= 0):
        raise ValueError(f"the learning rate is {shown(value)}, it must be a number at least 0")
    return number


def function(name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{name} is {shown(value)}, it must be a function")


def _each(name: str, value: Any, kind: type[T], what: str) -> tuple[T, ...]:
    """Those that a list or the like has. Text is no list of names."""
    try:
        given = () if isinstance(value, str) else tuple(value)
    except TypeError:
        given = (value,)
    if isinstance(value, str) or not all(isinstance(each, kind) for each in given):
        raise ValueError(f"{name} is {shown(value)}, it must be a list of {what}")
    return given


def update_kind(value: Any, name: str = "update") -> UpdateKind:
    """What may be pushed with tensors."""
    if not isinstance(value, str) or value not in ("gradient", "delta", "model"):
        raise ValueError(f"{name} is {shown(value)}, it must be 'gradient', 'delta' or 'model'")
    return UpdateKind(value)


def name(what: str, value: Any) -> str:
    """The name of a worker, a group or a barrier."""
    if not isinstance(value, str) or not is_rank(value):
        raise ValueError(f"{what} {shown(value)} must be {NAME_WORDS}")
    return value


def _plain(value: Any) -> Any:
    """The one element of a tensor or of a numpy scalar, else the value itself.

    `float(loss)` would warn of a tensor that requires a gradient, and `operator.index` takes a tensor of bool.
    """
    item = getattr(value, "item", None)
    if not callable(item) or isinstance(value, type):
        return value
    try:
        return item()
    except Exception:
        return value


def _number(value: Any) -> float | None:
    plain = _plain(value)
    if isinstance(plain, (bool, str, bytes, bytearray, complex)):
        return None
    try:
        return float(plain)
    except Exception:
        return None
