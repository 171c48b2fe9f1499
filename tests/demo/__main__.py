"""The demo: four workers train through one server under sync, ssp and async, while one of them is always slow.

    make demo          or, in an environment with the project installed,
    python -m tests.demo

Writes a picture, the figures as JSON, and each run's log and history to `out/demo`.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.demo import ending
from tests.demo.plan import TASK, Plan
from tests.demo.run import run
from tests.demo.screen import Screen
from tests.demo.viewing import Viewing

if TYPE_CHECKING:
    from tests.demo.report import Result
    from tests.demo.run import Recording


def main() -> int:
    options = _options()
    plan = replace(options.only, iterations=options.iterations, nap_seconds=options.nap)
    console = Console()
    introduction = f"[bold]Leeway: one server, four workers, {len(plan.modes)} policies.[/] {plan}"
    viewing = Viewing(console, introduction, opens=options.open)
    options.out.mkdir(parents=True, exist_ok=True)
    recordings: list[Recording] = []
    with ExitStack() as server:
        for mode in plan.modes:
            # The next server takes the place of the one before, so a page that is open shows it too.
            server.close()
            began = time.monotonic()
            with Screen(console, mode, plan, viewing) as screen:
                port = recordings[-1].port if recordings else 0
                recordings.append(server.enter_context(run(mode, plan, options.out, screen, port)))
            console.print(f"{mode.title}: done after {time.monotonic() - began:.0f} s, start of processes included")
        if not options.keep:
            server.close()
        _show(console, plan, _evaluated(recordings), options.out)
        if options.keep:
            with suppress(KeyboardInterrupt):
                console.print(f"The last server stays up until Ctrl-C: {recordings[-1].address}", soft_wrap=True)
                recordings[-1].stage.hold()
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
    parser.add_argument("--open", action="store_true", help="open the live page in a browser")
    parser.add_argument("--keep", action="store_true", help="leave the last server up until Ctrl-C")
    return parser.parse_args()


def _plan_of(names: str) -> Plan:
    try:
        return Plan().only(*names.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    ending.run("demo", main)
