from __future__ import annotations

import importlib
from importlib import metadata

import pytest

from leeway import release


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    importlib.reload(release)


def test_the_version_is_the_installed_one():
    assert release.__version__ == metadata.version("leeway")


def test_a_folder_that_is_not_installed_has_none(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patched:
        patched.setattr(metadata, "version", missing)
        assert importlib.reload(release).__version__ == "unknown"
