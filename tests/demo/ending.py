"""How a demo ends: with which exit code, and what it says of a process that has failed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from leeway import interrupts
from tests.demo.stage import RunFailed

if TYPE_CHECKING:
    from collections.abc import Callable


def run(name: str, main: Callable[[], int]) -> NoReturn:
    """Run the demo of this name and end the process with its code."""
    # Asked to end, we still end our processes.
    interrupts.raise_exceptions()
    try:
        code = main()
    except RunFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = interrupts.EXIT_CODE
    sys.exit(code)
