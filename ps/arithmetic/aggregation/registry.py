"""The aggregation rules by the names that users write.

The one rule: another rule is another file and one line here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from leeway.ps.arithmetic.aggregation.weighted_mean import weighted_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.ps.arithmetic.aggregation.rule import Aggregation

DEFAULT_RULE = "weighted-mean"

RULES: Mapping[str, Aggregation] = MappingProxyType({DEFAULT_RULE: weighted_mean})


def rule(name: str) -> Aggregation:
    """The rule of that name. Raises `ValueError`."""
    if name not in RULES:
        raise ValueError(f"there is no aggregation rule {name!r}; known are {', '.join(RULES)}")
    return RULES[name]
