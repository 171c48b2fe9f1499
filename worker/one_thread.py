"""Calls of one thread alone.

The one rule: two threads in one session would push each other's gradients, and tell times that cannot be; the second
one is told so, and nothing has happened.
"""

from __future__ import annotations

import threading
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


class Called(Protocol):
    """`_caller`: the thread whose call is under way."""

    _caller: int | None


S = TypeVar("S", bound=Called)
P = ParamSpec("P")
T = TypeVar("T")


def for_one_thread(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def call(self: S, /, *values: P.args, **named: P.kwargs) -> T:
        me = threading.get_ident()
        if self._caller not in (None, me):
            raise RuntimeError("another thread uses this session; a session is for one thread: connect once in each")
        before, self._caller = self._caller, me
        try:
            return method(self, *values, **named)
        finally:
            self._caller = before

    return call
