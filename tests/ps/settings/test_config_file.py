"""The TOML file: values as behind their flags, and an answer that helps for everything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leeway.ps.settings.config_file import ConfigFile

KNOWN = ("port", "lr", "lr_schedule", "mode", "resume")
IN_GROUPS = ("lr", "mode")


def read(folder: Path, text: str) -> ConfigFile:
    path = folder / "leeway.toml"
    path.write_text(text, encoding="utf-8")
    return ConfigFile.read(path, KNOWN, IN_GROUPS)


def test_values_are_what_would_be_typed(tmp_path: Path) -> None:
    file = read(tmp_path, 'port = 0\nlr = 0.05\nmode = "ssp"\nresume = true\n')
    assert file.settings == {"port": "0", "lr": "0.05", "mode": "ssp", "resume": "True"}
    assert not file.group_settings


def test_groups_have_patterns_and_settings(tmp_path: Path) -> None:
    file = read(tmp_path, 'lr = 1\n[group.a]\nkeys = ["a.*", "b"]\nlr = 0.5\n[group."b.c"]\nkeys = ["*"]\n')
    assert file.group_keys == {"a": ("a.*", "b"), "b.c": ("*",)}
    assert file.group_settings == {"a": {"lr": "0.5"}, "b.c": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lrr = 1", ": there is no setting 'lrr'; the nearest is 'lr'"),
        ('lr-schedule = "step"', ": there is no setting 'lr-schedule'; the nearest is 'lr_schedule'"),
        ("[groups.a]", ": there is no setting 'groups'; the nearest is 'group'"),
        ('[group.a]\nkey = ["*"]\n', ", [group.a]: there is no setting 'key'; the nearest is 'keys'"),
        (
            '[group.a]\nkeys = ["*"]\nport = 1',
            ", [group.a]: port is a setting of the whole server; it stands above the tables",
        ),
        ("port = [1]", ": port must be a single text, number, true or false"),
        ("port = 2020-01-01", ": port must be a single text, number, true or false"),
        ("[lr]\nx = 1", ": lr must be a single text, number, true or false"),
        ("group = 1", ": group must be tables, each headed [group.NAME]"),
        ("[group]\na = 1", ": group must be tables, each headed [group.NAME]"),
        ('[group.a]\nkeys = "a.*"', ", [group.a]: keys must be a list of patterns, such as ['embedding.*']"),
        ("[group.a]\nkeys = []", ", [group.a]: keys must be a list of patterns, such as ['embedding.*']"),
        ("[group.a]\nkeys = [1]", ", [group.a]: keys must be a list of patterns, such as ['embedding.*']"),
        ("foo = 1", ": there is no setting 'foo'; ps-serve config show lists them"),
        ('[group.a]\nkeys = ["*"]\nbar = 1', ", [group.a]: there is no setting 'bar'; ps-serve config show lists them"),
        ("port = " + "[" * 100_000, " is not valid TOML: nested too deep"),
        ("port = ", " is not valid TOML: Invalid value (at end of document)"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read(tmp_path, text)
    assert str(refused.value) == f"{tmp_path / 'leeway.toml'}{words}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file or directory"):
        ConfigFile.read(tmp_path / "none.toml", KNOWN, IN_GROUPS)


def test_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not valid TOML: .* digits"):
        read(tmp_path, "port = " + "9" * 5000)


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "leeway.toml"
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"leeway.toml: it is a {what}, where a regular file should be"):
        ConfigFile.read(path, KNOWN, IN_GROUPS)


def test_what_a_shell_makes_of_a_command_is_read() -> None:
    """`--config <(command)`: a pipe whose other side is open."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"lr = 1\n")
        os.close(writing)
        assert ConfigFile.read(Path(f"/dev/fd/{reading}"), KNOWN, IN_GROUPS).settings == {"lr": "1"}
    finally:
        os.close(reading)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not valid TOML"):
        ConfigFile.read(path, KNOWN, IN_GROUPS)
