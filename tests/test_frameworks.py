import pytest

from tests import frameworks


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """No environment yet, and another place for it."""
    frameworks.made.cache_clear()
    monkeypatch.setattr(frameworks, "FOLDER", tmp_path / "frameworks")
    monkeypatch.setattr(frameworks, "PYTHON", tmp_path / "frameworks" / "bin" / "python")
    yield tmp_path
    frameworks.made.cache_clear()


def test_what_cannot_be_made_skips_by_name(elsewhere, monkeypatch):
    monkeypatch.setattr(frameworks, "requirements", lambda: ["leeway-has-no-such-package"])
    for variable, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(elsewhere)}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(pytest.skip.Exception, match=r"no environment with Lightning.*leeway-has-no-such-package"):
        frameworks.require()
    assert not (elsewhere / "frameworks" / "made-of").exists()


def test_it_is_made_once_and_sees_what_is_around_it(elsewhere, monkeypatch):
    monkeypatch.setattr(frameworks, "requirements", lambda: ["pytest"])  # is there, so nothing is asked of an index
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert frameworks.require() == elsewhere / "frameworks" / "bin" / "python"
    frameworks.made.cache_clear()
    monkeypatch.setattr(frameworks, "_make", lambda _: pytest.fail("it is made twice"))
    assert frameworks.require().is_file()


def test_the_extras_are_pinned():
    pinned = {line.partition("==")[0] for line in frameworks.CONSTRAINTS.read_text(encoding="utf-8").splitlines()}
    assert {requirement.partition(">")[0] for requirement in frameworks.requirements()} <= pinned
