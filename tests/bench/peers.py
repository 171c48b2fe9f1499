"""The other side of a measurement: a process that does what one line of JSON asks, and answers with one.

The one rule: times are the monotonic clock's, which all processes of a machine share, so what two peers did at the
same time can be told.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.bench.processes import process, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.bench.processes import Process


class Peer:
    """Made by `peer`. `hello` is what it said first."""

    def __init__(self, started: Process) -> None:
        self.process = started
        self.hello: dict[str, Any] = json.loads(started.read_line())

    def tell(self, **command: Any) -> None:
        """Hand over a command; `hear` has the answer."""
        self.process.write_line(json.dumps(command))

    def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.process.read_line())
        return answer

    def ask(self, **command: Any) -> dict[str, Any]:
        self.tell(**command)
        return self.hear()


@contextmanager
def peer(module: str, *arguments: str) -> Iterator[Peer]:
    """The module as a process that runs `serve`."""
    with process(python(module, *arguments)) as started:
        yield Peer(started)


def ask_all(peers: Iterable[Peer], **command: Any) -> list[dict[str, Any]]:
    """The same command to all at the same time; their answers."""
    asked = list(peers)
    for one in asked:
        one.tell(**command)
    return [one.hear() for one in asked]


def serve(hello: Mapping[str, Any], answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """A peer's whole life: say hello, then answer a line with a line until stdin ends."""
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
