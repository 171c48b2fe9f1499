from importlib import metadata

import pytest

from protocol.release import program_version


@pytest.fixture(autouse=True)
def asked_anew():
    program_version.cache_clear()
    yield
    program_version.cache_clear()


def test_it_is_the_installed_one():
    assert program_version() == metadata.version("leeway")


def test_from_a_folder_that_is_not_installed_nobody_knows(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("protocol.release.version", missing)
    assert program_version() == "unknown"
