"""Which release of the package this is, for whoever is asked."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("leeway")
    except PackageNotFoundError:
        return "unknown"


__version__ = _installed()
"""The installed version, or "unknown" when it runs from a folder that is not installed."""
