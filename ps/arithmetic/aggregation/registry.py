"""The aggregation rules by the names that users write.

The one rule: another rule is another file and one line here.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING

from leeway.protocol.fields import shown
from leeway.ps.arithmetic.aggregation.geometric_median import GeometricMedian
from leeway.ps.arithmetic.aggregation.krum import Krum, MultiKrum
from leeway.ps.arithmetic.aggregation.mean import Mean
from leeway.ps.arithmetic.aggregation.median import Median
from leeway.ps.arithmetic.aggregation.plain_sum import Sum
from leeway.ps.arithmetic.aggregation.trimmed_mean import TrimmedMean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.ps.arithmetic.aggregation.rule import Rule

DEFAULT_RULE = Mean()

RULES: Mapping[str, type[Rule]] = MappingProxyType(
    {kind.name: kind for kind in (Mean, Sum, Median, TrimmedMean, Krum, MultiKrum, GeometricMedian)}
)

# No rule has numbers as large as this; it keeps what a user wrote wrong short.
_MAX_DIGITS = 9


def form(name: str) -> str:
    """How the rule of this name is written, with letters for its numbers."""
    letters = ",".join(field.name.upper() for field in dataclasses.fields(RULES[name]))
    return f"{name}:{letters}" if letters else name


def rule(text: str) -> Rule:
    """The rule that a user wrote. Raises `ValueError`, which tells the form."""
    name, colon, numbers = text.partition(":")
    if name not in RULES:
        raise ValueError(f"there is no aggregation rule {shown(text)}; choose one of {', '.join(map(form, RULES))}")
    given = numbers.split(",") if colon else []
    fields = dataclasses.fields(RULES[name])
    well_formed = all(text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS for text in given)
    if len(given) != len(fields) or not well_formed:
        example = f", such as {name}:{','.join('1' for _ in fields)}" if fields else ""
        raise ValueError(f"the aggregation rule {shown(text)} must have the form {form(name)}{example}")
    try:
        return RULES[name](*map(int, given))
    except ValueError as error:
        raise ValueError(f"the aggregation rule {shown(text)} is of the form {form(name)}, and {error}") from None
