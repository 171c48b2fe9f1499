"""`async` (ASP): a pull is answered at once, a push is effective on arrival. No bound on staleness whatever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from leeway.protocol.policy_terms import PolicyTerms
from leeway.ps.core.policies.eager import Eager


@dataclass(frozen=True, slots=True)
class Asynchronous(Eager):
    terms: ClassVar[PolicyTerms] = PolicyTerms("async")
