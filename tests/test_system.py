import pytest

from tests import system


def test_a_program_that_is_there_is_found(tmp_path, monkeypatch):
    program = tmp_path / "promtool"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system.require("promtool") == program
    assert "promtool" not in system.missing()
    assert "prometheus" in system.missing()


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("false", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_program_that_is_missing_skips_by_name_and_fails_in_ci(tmp_path, monkeypatch, ci, outcome):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"chromedriver is not installed.*chromium-driver"):
        system.require("chromedriver")


def test_what_cannot_be_installed_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    assert system.main() == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 1
    for program, package in system.PACKAGES.items():
        assert program in said
        assert package in said
    assert "skip by name" in said


def test_nothing_is_said_when_nothing_is_missing(tmp_path, monkeypatch, capsys):
    for program in system.PACKAGES:
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system.main() == 0
    assert capsys.readouterr().out == ""
