"""The demo: four workers train through one server under sync, ssp and async, while one of them is always slow.

    make demo          or, in an environment with the project installed,
    python -m tests.demo

Writes a picture, the figures as JSON, and each run's log and history to `out/demo`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.demo.plan import TASK, Plan
from tests.demo.run import RunFailed, run
from tests.demo.screen import Screen

if TYPE_CHECKING:
    from tests.demo.report import Result
    from tests.demo.run import Recording

INTERRUPTED = 130


def main() -> int:
    options = _options()
    plan = replace(options.only, iterations=options.iterations, nap_seconds=options.nap)
    console = Console()
    console.print(f"[bold]Leeway: one server, four workers, {len(plan.modes)} policies.[/] {plan}\n")
    options.out.mkdir(parents=True, exist_ok=True)
    recordings = []
    for mode in plan.modes:
        with Screen(console, mode, plan) as screen:
            began = time.monotonic()
            recordings.append(run(mode, plan, options.out, screen))
        console.print(f"{mode.title}: done after {time.monotonic() - began:.0f} s, start and end of processes included")
    results = _evaluated(recordings)
    _show(console, plan, results, options.out)
    return 0


def _evaluated(recordings: list[Recording]) -> list[Result]:
    # torch is imported when the workers are gone: until then the cores are theirs.
    from tests.demo import timeline
    from tests.demo.evaluation import Evaluator, curve
    from tests.demo.report import Result

    evaluator = Evaluator(TASK)
    results = []
    for recording in recordings:
        happened = timeline.read(recording.history)
        accuracies = {number: evaluator.accuracy(body) for number, body in recording.versions.items()}
        results.append(Result(recording.mode, happened, curve(accuracies, happened)))
    return results


def _show(console: Console, plan: Plan, results: list[Result], folder: Path) -> None:
    from tests.demo.picture import draw
    from tests.demo.report import meanings, table, write_json

    draw(folder / "modes.png", plan, results)
    write_json(folder / "figures.json", plan, results)
    console.print()
    console.print(table(results))
    console.print()
    console.print(meanings())
    console.print(f"\nPicture: {folder / 'modes.png'}   figures: {folder / 'figures.json'}", soft_wrap=True)


def _options() -> argparse.Namespace:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="demo", description="Compare sync, ssp and async while one worker is slow.")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="where to [%(default)s]")
    parser.add_argument("--iterations", type=int, default=plan.iterations, metavar="N", help="a worker's [%(default)s]")
    parser.add_argument("--nap", type=float, default=plan.nap_seconds, metavar="SECONDS", help="[%(default)s]")
    parser.add_argument("--only", type=_plan_of, default=plan, metavar="MODE,...", help="of sync, ssp and async [all]")
    return parser.parse_args()


def _plan_of(names: str) -> Plan:
    try:
        return Plan().only(*names.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    # Asked to end, we still end our processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
    except RunFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
