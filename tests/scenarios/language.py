"""The small language of the golden scenarios.

A file is a comment that names the rule it shows, and blocks: commands, `----`, what came of them, and the state in
one line (`*` = the pull is answered). `pytest tests/scenarios --rewrite` writes the results anew. Commands:

    start [policy=ssp(1)] [workers=2] [until=3] [lease=10] [max-iteration=30] [groups=a:conv*,b:*] [least=5]
          [until-of=a:2,b:0] [until-seconds=5] [until-metric=accuracy>=0.9] [until-flat=loss:2:max]
          [max-norm=10] [ratio=4]
    offer w b[5] n:integer-buffer     ask w                      initial values; the question before
          [whole] [group=a] [aliases=w:v,b:c]                    all keys of the group; further names of tied tensors
          [spread] [holds=1.4]                                   of which the stages of a replica offer each its own
    init w b                          the values of a file
    join w0 w1 [groups=a,b] [create=b] [one-after-another] [x18] new processes
    rejoin w0#1 [groups=a,b] [create=b] [one-after-another]      the process of that life once more
    join r0/0 r0/1 of=2 [plan=model:a,seed:1] [owned=w] [keys=w,b] [no-wait | wait=5]   stages of a replica
    rejoin r0/0 [owned=w]             that stage's process once more
    pull w0 [@3] [no-wait | wait=5] [min-version=2] [since=1.4] [group=a]        pull reader
    push w0 [@3] [delta | model | skip] [samples=4] [part=1/2] [keys=a,b] [version=2] [round=1] [no-wait]   pushpull ...
         [figures=loss:0.5,accuracy:nan] [norm=3]
    skip w0                           a push without an update
    step w0 w1 [x3]                   each: a pull that is answered, and its push; the plain answers are not shown
    resend w0 [@3] [part=1/2]         a push again, byte for byte
    leave w0       heartbeat w0       gone w0 (its newest request)
    barrier NAME w0 [generation=1] [parties=3] [no-wait]
    quarantine w0 WHY                 release w0                 an admin asks for it
    policy ssp(2) [group=a]           status                     why does who wait, and for whom
    advance 5                         seconds, then a tick
    pause 5                           seconds in which the server does not run; no tick
    hold publishing                   publish [all]              versions come out at once, or one by one
    fail                              the arithmetic of the version that is held fails
    save           restart clean      restart crash              a crash goes on from what was saved, if anything
    stop

A policy is `sync`, `async`, `ssp(BOUND)`, or `sync(QUORUM,GRACE)` with a grace of seconds or `auto`.
A worker is called by its rank, its older lives as w0#1. A push goes by the last grant unless told otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.tensors import Kind, TensorSpec


@dataclass
class Words:
    """A command line: `verb name name @3 flag key=value x2`."""

    names: list[str]
    options: dict[str, str]
    clock: int | None = None
    times: int = 1

    def number(self, key: str, default: int | None = None) -> int | None:
        return int(self.options[key]) if key in self.options else default

    def listed(self, key: str) -> tuple[str, ...]:
        return tuple(self.options[key].split(",")) if key in self.options else ()


FLAGS = {"no-wait", "delta", "model", "skip", "whole", "spread", "one-after-another"}


def parse(line: str) -> tuple[str, Words]:
    verb, *rest = line.split()
    words = Words([], {})
    for word in rest:
        if match := re.fullmatch(r"@(\d+)", word):
            words.clock = int(match[1])
        elif match := re.fullmatch(r"x(\d+)", word):
            words.times = int(match[1])
        elif match := re.fullmatch(r"([a-z-]+)=(.+)", word):
            words.options[match[1]] = match[2]
        elif word in FLAGS:
            words.options[word] = ""
        else:
            words.names.append(word)
    return verb, words


def policy(text: str) -> PolicyTerms:
    """`ssp(3)`, or `sync(2,0.5)`, `sync(2,auto)`."""
    match = re.fullmatch(r"([a-z]+)(?:\((-?\d+)(?:,(auto|[\d.]+))?\))?", text)
    assert match, f"{text} is no policy"
    if match[3]:
        grace = None if match[3] == "auto" else float(match[3])
        return PolicyTerms(match[1], quorum=int(match[2]), grace_seconds=grace)
    return PolicyTerms(match[1], int(match[2]) if match[2] else None)


def tensor(text: str) -> TensorSpec:
    match = re.fullmatch(r"([\w./]+)(?:\[(\d+)\])?(?::([a-z-]+))?", text)
    assert match, f"{text} is no tensor"
    kind = Kind(match[3] or "trainable")
    return TensorSpec(match[1], (int(match[2] or 3),), "int64" if kind is Kind.INTEGER_BUFFER else "float32", kind)
