"""What the programs have in common: how they end, with which exit code, what they say of a user's mistake; paths."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from leeway import interrupts
from leeway.errors import DataError, SettingError, TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Words that are longer than any path one works with: a value of thousands of digits, which click names in full.
_LONG: Final = re.compile(r"(\S{100})\S{300,}")

BAD_USAGE: Final = 2
"""Of a program that was started in a way that the user can mend."""


class GivenPath(click.Path):
    """An empty path is the current folder to the system, and an unset variable of a shell to whoever wrote it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty; is the variable set that it comes from?", param, ctx)
        if "\0" in str(value):
            self.fail("the path has a NUL in it, which no path can have", param, ctx)
        return super().convert(value, param, ctx)


def printable(text: str) -> str:
    """With escapes in place of what is not seen: nothing that a peer or a file says steers the terminal."""
    return "".join(seen if seen.isprintable() else seen.encode("unicode_escape").decode() for seen in text)


def run(program: click.Command, arguments: Sequence[str] | None, *, terminable: bool = False) -> NoReturn:
    """Run a command and end the process with the code that it returns, `BAD_USAGE` or `interrupts.EXIT_CODE`.

    A mistake that the user can mend is one line on stderr. `terminable`: SIGTERM is as Ctrl-C from the start.
    """
    try:
        if terminable:
            interrupts.raise_exceptions()
        code = program.main(arguments, prog_name=program.name, standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        code = interrupts.EXIT_CODE
    except (click.ClickException, SettingError, TaskError, DataError) as error:
        complain(program.name, error.format_message() if isinstance(error, click.ClickException) else str(error))
        code = BAD_USAGE
    sys.exit(code)


def complain(name: str | None, message: str) -> None:
    """Say what is wrong, in one line on stderr under the program's name."""
    line = _LONG.sub(r"\1...", printable(" ".join(message.split())))
    print(f"{name}: {line}", file=sys.stderr)
