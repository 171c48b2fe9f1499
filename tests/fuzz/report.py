"""The page of a long run."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.run import BYTES_PER_BYTE, SLACK_BYTES, SLOWEST_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.fuzz.finding import Ran
    from tests.fuzz.served import Served

MIB = 2**20
# What runs have found so far; a page ends with it.
FOUND = Path(__file__).with_name("found.md")


def line(ran: Ran) -> str:
    """One run, for whoever waits."""
    what = "nothing found" if ran.found is None else "FOUND"
    return f"{ran.inputs:,} inputs in {ran.seconds:.0f} s, {ran.covered} branches, {what}"


def page(
    date: str, machine: Mapping[str, Any], ran: Sequence[Ran], seconds: float, seed: int, served: Served | None
) -> str:
    by_target: defaultdict[str, list[Ran]] = defaultdict(list)
    for one in ran:
        by_target[one.target].append(one)
    inputs = sum(one.inputs for one in ran)
    others = machine["others_share"]
    busy = "" if others is None else f" Other processes used {others:.0%} of the cores meanwhile."
    lines = [
        f"# Bad bytes, {date}",
        "",
        f"`make fuzz` on {machine['processor']}, {machine['cores']} cores: {inputs:,} inputs in {seconds:.0f} s"
        f" ({inputs / seconds:,.0f} a second, two processes), seed {seed}. Nothing was found.{busy}",
        "",
        "- *accepted*: of the inputs; what was accepted was written again and read back, and was the same. All others"
        " ended in the error that is documented.",
        "- *branches*: edges of our own code that inputs went through, at most in one process.",
        f"- *peak of an input*: allocated while it was taken, of one input in 512. Allowed are {BYTES_PER_BYTE} bytes"
        f" for each of its own, what it may declare, and {SLACK_BYTES // MIB} MiB; the process's own peak was compared"
        " with that after each input.",
        f"- *slowest*: of all inputs; {SLOWEST_SECONDS} s would be a finding.",
        "",
        "| target | inputs | a second | accepted | branches | corpus | slowest, ms | peak of an input, KiB | of the"
        " process, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in by_target.items():
        count, spent = sum(one.inputs for one in runs), sum(one.seconds for one in runs)
        accepted = sum(one.accepted for one in runs)
        lines.append(
            f"| `{name}` | {count:,} | {count / spent if spent else 0:,.0f} | {accepted:,} |"
            f" {max(one.covered for one in runs)} | {max(one.corpus for one in runs)} |"
            f" {1000 * max(one.longest_seconds for one in runs):.0f} |"
            f" {max(one.peak_input_bytes for one in runs) / 1024:,.0f} |"
            f" {max(one.peak_process_bytes for one in runs) / MIB:.0f} |"
        )
    if served is not None:
        lines += ["", served.words]
    lines += ["", FOUND.read_text().rstrip()]
    return "\n".join(lines) + "\n"
