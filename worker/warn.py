"""Warnings that point at the user's line, wherever in the package they arise."""

from __future__ import annotations

import sys
import warnings
from itertools import count

# A hook is called by torch, through decorators of the standard library.
_BETWEEN = {__name__.partition(".")[0], "torch", "contextlib", "functools"}


def warn(message: str) -> None:
    """A `UserWarning` at the first caller outside the package, and outside what calls its hooks; at the outermost one
    where there is none."""
    for level in count(1):  # 1 is this function's own frame
        frame = sys._getframe(level - 1)
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in _BETWEEN or frame.f_back is None:
            warnings.warn(message, UserWarning, stacklevel=level)
            return
