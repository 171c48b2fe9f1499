"""Which release of the package this is, for whoever is asked."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def program_version() -> str:
    """The installed version, or "unknown" when it runs from a folder that is not installed."""
    try:
        return version("leeway")
    except PackageNotFoundError:
        return "unknown"
