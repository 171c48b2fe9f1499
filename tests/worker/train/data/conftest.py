"""The published data sets, where the environment variable PS_DATA_DIR says they are."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def published():
    """Return a function that gives the data directory, or skips the test if it lacks a set's folder."""

    def data_dir(folder: str) -> Path:
        place = Path(os.environ.get("PS_DATA_DIR") or "no-data-directory")
        if not (place / folder).is_dir():
            pytest.skip(f"PS_DATA_DIR holds no {folder}/")
        return place

    return data_dir
