from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ps.observability import recorder

# The demo is a program, not a package: its files find each other in its folder, as with `python -P examples/demo`.
DEMO = Path(__file__).parents[3] / "examples" / "demo"
sys.path.append(str(DEMO))


@pytest.fixture
def ssp_rows() -> list[dict[str, Any]]:
    return recorder.ssp_rows()


@pytest.fixture
def sync_rows() -> list[dict[str, Any]]:
    return recorder.sync_rows()
