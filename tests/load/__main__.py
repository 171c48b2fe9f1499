"""`make load`: sync, async, SSP and DDP over stragglers, tasks and a slow network; then a flood of simulated workers.

The one rule: a report is written whatever happens: with what was measured until then, and what is missing at its top.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench.processes import Failed
from tests.load import answer, forks, scenario, tunnel
from tests.load.scenario import Scenario, ScenarioError
from tests.load.systems import DDP

if TYPE_CHECKING:
    from tests.load.campaign import Campaign
    from tests.load.evaluation import Evaluator
    from tests.load.remote import Remote
    from tests.load.report import Findings
    from tests.load.screen import Screen

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = Path(__file__).with_name("scenarios")
FULL = ("digits", "digits-slow-network", "mnist-2nn", "mnist-cnn")
SHORT = ("short",)

# About how long the flood takes.
FLOOD_SECONDS = {True: 45.0, False: 600.0}

INCOMPLETE = 1
BAD_USAGE = 2
INTERRUPTED = 130

_EPILOG = f"""
--full runs {", ".join(FULL)} of tests/load/scenarios and the whole flood; --short a few systems for a few seconds each.
With --server the workers run here and the server where you say. It must be yours alone and have plain SGD: policy and
learning rate are switched over HTTP, each run's parameters are set by a push, and both are put back at the end (the
parameters are not). The stragglers' lease is then the server's own, DDP runs here beside it, and there is no flood.
Exit code: 0 complete; 1 the report is marked incomplete; 2 a mistake in what was asked for; 130 after Ctrl-C.
"""


def parser() -> argparse.ArgumentParser:
    reading = argparse.ArgumentParser(prog="load", description=__doc__.partition("\n")[0], epilog=_EPILOG)
    size = reading.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="everything, within an hour on two cores (the default)")
    size.add_argument("--short", action="store_true", help="a taste of everything, under three minutes")
    size.add_argument(
        "--scenario", type=Path, action="append", metavar="FILE.toml", help="this, and no flood; again: more"
    )
    reading.add_argument("--server", metavar="URL", help="against a server that runs already (see below)")
    reading.add_argument("--no-flood", action="store_true", help="without the second part")
    reading.add_argument("--data-dir", type=Path, default=Path(os.environ.get("PS_DATA_DIR", "data")), metavar="DIR")
    reading.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks", metavar="FOLDER", help="for the report"
    )
    return reading


def main() -> int:
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    names = SHORT if options.short else FULL
    files = options.scenario or [SCENARIOS / f"{name}.toml" for name in names]
    try:
        scenarios = [scenario.read(path) for path in files]
        if len({one.name for one in scenarios}) < len(scenarios):
            raise ScenarioError("two scenario files have the same name; reports tell them apart by it")
        return _run(options, scenarios, console)
    except ValueError as error:  # ours to the user: ScenarioError, RemoteError, TaskError, DataError
        print(f"load: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_USAGE


def _run(options: argparse.Namespace, scenarios: list[Scenario], console: Console) -> int:
    forks.warm_up()  # while this process reads the data
    from tests.bench import machine
    from tests.load import report
    from tests.load.campaign import Campaign
    from tests.load.screen import Screen

    described, others, began = machine.describe(), machine.Others(), time.monotonic()
    findings = report.Findings(
        date=datetime.now(UTC).strftime("%Y-%m-%d-%H%M"),
        command=_command(options),
        machine=described,
        scenarios=scenarios,
    )
    evaluators = _evaluators(findings, options.data_dir)
    with_flood = not (options.scenario or options.server or options.no_flood)
    with ExitStack() as stack:
        remote = _remote(options, findings, stack)
        screen = stack.enter_context(Screen(console))
        campaign = Campaign(findings, evaluators, options.data_dir, screen, remote)
        screen.expect(campaign.seconds() + (FLOOD_SECONDS[options.short] if with_flood else 0.0))
        code = _measure(findings, campaign, screen, options.short if with_flood else None)
    findings.seconds = time.monotonic() - began
    described["others_share"] = others.share(campaign.cpu_seconds)
    pages = report.write(findings, options.out)
    console.print()
    for line in (*answer.in_short(findings.comparisons()), *(f"INCOMPLETE: {reason}" for reason in findings.broken)):
        console.print(line, highlight=False, soft_wrap=True)
    for page in pages:
        console.print(f"written: {os.path.relpath(page)}", highlight=False, soft_wrap=True)
    return code


def _measure(findings: Findings, campaign: Campaign, screen: Screen, short_flood: bool | None) -> int:
    """Everything that takes long. Returns the exit code."""
    from tests.load.campaign import GaveUp

    try:
        for one in findings.scenarios:
            campaign.run(one)
        if short_flood is not None:
            _flood(findings, screen, short_flood)
    except KeyboardInterrupt:
        findings.broken.append(f"interrupted {campaign.progress}")
        return INTERRUPTED
    except GaveUp as error:
        findings.broken.append(f"given up {campaign.progress}: {error}")
    return 0 if findings.complete else INCOMPLETE


def _flood(findings: Findings, screen: Screen, short: bool) -> None:
    from tests.load.flood.measure import measure

    try:
        findings.flood = figures = measure(short, screen.say)
    except Failed as error:
        findings.broken.append(f"Pure load: {' '.join(str(error).split())}")
        return
    failed = {one.failed for one in (*figures.cells, *figures.wakes) if one.failed}
    # A machine that has no room for a cell has not failed.
    for reason in sorted(failed):
        (findings.missing if "of memory" in reason else findings.broken).append(f"Pure load, some cells: {reason}")


def _evaluators(findings: Findings, data_dir: Path) -> dict[str, Evaluator]:
    """By scenario; one whose data are not there is left out, and the report says so."""
    from leeway.errors import DataError
    from tests.load.evaluation import Evaluator

    evaluators = {}
    for one in list(findings.scenarios):
        try:
            evaluators[one.name] = Evaluator(one, data_dir)
        except DataError as error:
            findings.scenarios.remove(one)
            findings.missing.append(f"{one.title}: {error}")
            if not findings.scenarios:
                raise
    for one in findings.scenarios:
        if one.network and DDP in one.systems and (reason := tunnel.why_not()):
            findings.missing.append(f"{one.title}: DDP; {reason}")
    return evaluators


def _remote(options: argparse.Namespace, findings: Findings, stack: ExitStack) -> Remote | None:
    if options.server is None:
        return None
    from tests.load.remote import Remote

    remote = Remote(options.server, findings.scenarios, options.data_dir)
    stack.callback(remote.close)
    findings.server = "one ps-serve that ran already, switched over HTTP; its parameters were set anew for each run"
    return remote


def _command(options: argparse.Namespace) -> str:
    """How to do the same again, without what is this machine's alone."""
    flags = ["--short"] if options.short else []
    flags += [f"--scenario {path.name}" for path in options.scenario or ()]
    flags += ["--server URL"] if options.server else ["--no-flood"] if options.no_flood else []
    return f'make load ARGS="{" ".join(flags)}"' if flags else "make load"


if __name__ == "__main__":
    sys.exit(main())
