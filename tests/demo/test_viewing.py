from __future__ import annotations

import io
import webbrowser

import pytest
from rich.console import Console

from tests.demo.viewing import Viewing


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80, color_system=None)


def test_an_address_is_told_once_and_first(console):
    viewing = Viewing(console, "What this is.")
    for address in ("http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:2"):
        viewing.begin(address)
    lines = [line for line in console.file.getvalue().splitlines() if line]
    assert lines == ["watch it: http://127.0.0.1:1", "What this is.", "watch it: http://127.0.0.1:2"]


def test_without_a_browser_it_is_said(console, monkeypatch):
    # What webbrowser finds on a machine that has none.
    monkeypatch.setattr(webbrowser, "_tryorder", [])
    monkeypatch.setattr(webbrowser, "_browsers", {})
    Viewing(console, "", opens=True).begin("http://127.0.0.1:1")
    assert "there is no browser to open here" in console.file.getvalue()
