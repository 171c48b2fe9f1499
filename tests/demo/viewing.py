"""Where a run can be watched: the server's address, told before anything else, and opened in a browser if asked for.

The one rule: an address is told as soon as something answers there, and once.
"""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Viewing:
    """`opens`: whether a browser is opened too. `introduction`: what is printed below the first address."""

    def __init__(self, console: Console, introduction: str, *, opens: bool = False) -> None:
        self._console = console
        self._introduction = introduction
        self._opens = opens
        self._address = ""

    def begin(self, address: str) -> None:
        """A server answers at this address."""
        if address == self._address:
            return
        self._console.print(f"[bold]watch it: {address}[/]", soft_wrap=True)
        if not self._address:
            self._console.print(f"\n{self._introduction}\n")
        self._address = address
        if self._opens and not webbrowser.open(address):
            self._console.print("there is no browser to open here; the address can be opened from another machine")
