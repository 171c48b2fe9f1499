from __future__ import annotations

from typing import Any

import pytest

from tests.ps.watching import recorder


@pytest.fixture
def ssp_rows() -> list[dict[str, Any]]:
    return recorder.ssp_rows()


@pytest.fixture
def sync_rows() -> list[dict[str, Any]]:
    return recorder.sync_rows()
