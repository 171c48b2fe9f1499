"""`make bench`, or `PYTHONPATH=. python -P -m tests.bench`: measures Leeway beside what it is compared with.

The one rule: a run writes one dated page and its figures under docs/benchmarks, whatever they are.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from leeway.errors import DataError
from leeway.worker.train.data import mnist
from tests.bench import accuracy, attacks, machine, pipelines, replicas, results, secured, training, wire
from tests.bench.processes import ROOT
from tests.bench.results import Section

if TYPE_CHECKING:
    from collections.abc import Callable

_EPILOG = "Without the MNIST files in the data directory the training parts are skipped, and the page says so."


_USUAL = ("wire", "attacks", "secured", "sync", "stragglers", "pipelines", "replicas")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0], epilog=_EPILOG)
    parser.add_argument("--only", choices=[*_USUAL, "accuracy"], action="append", help="this part")
    parser.add_argument("--full", action="store_true", help="the time to an accuracy too: about an hour more")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that everything works")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("PS_DATA_DIR", "data")))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", help="folder for the page")
    return parser.parse_args()


def _parts(options: argparse.Namespace) -> list[tuple[str, str, Callable[[], Section]]]:
    """Name, title when skipped, and what to call, of each part that is asked for."""
    data, quick = options.data_dir, options.quick
    wire_rounds, rounds, seconds = (3, 1, 3.0) if quick else (15, 3, 8.0)
    parts = [
        ("wire", "100 MiB, one client", partial(wire.one_client, wire_rounds)),
        ("wire", "100 MiB, two clients", partial(wire.two_clients, wire_rounds)),
        ("wire", "4 KiB", partial(wire.small, wire_rounds)),
        ("secured", "100 MiB under TLS", partial(secured.encrypted, wire_rounds)),
        ("secured", "4 KiB with a token", partial(secured.with_a_token, wire_rounds)),
        ("attacks", "Attacks", partial(attacks.under_attack, 1 if quick else 3, 2.0 if quick else 10.0)),
        ("sync", "`sync` against DDP", partial(training.against_ddp, data, 2 * rounds - 1, seconds)),
        ("stragglers", "Stragglers", partial(training.stragglers, data, rounds, seconds)),
        ("pipelines", "Pipelines against torch", partial(pipelines.against_torch, rounds, seconds)),
        ("pipelines", "Pipelines against their bound", partial(pipelines.against_bound, 1 if quick else 2, seconds)),
        ("pipelines", "Pipelines on unlike machines", partial(pipelines.measured_cut, 1 if quick else 2, seconds)),
        ("replicas", "Replicas", partial(replicas.under_a_straggler, data, *((2, 20) if quick else (4, 60)))),
        ("accuracy", "Time to accuracy", partial(accuracy.time_to_accuracy, data, 1 if quick else 2)),
    ]
    wanted = options.only or [*_USUAL, *(["accuracy"] if options.full else [])]
    return [part for part in parts if part[0] in wanted]


def _missing(data_dir: Path) -> str | None:
    """Why the training parts cannot run, or None."""
    try:
        mnist.load(data_dir)
    except DataError as error:
        return str(error)
    return (
        None if torch.distributed.is_gloo_available() else "this torch has no gloo, so there is no DDP to compare with"
    )


def main() -> int:
    options = _arguments()
    torch.set_num_threads(1)
    described, others = machine.describe(), machine.Others()
    missing = _missing(options.data_dir)
    sections: list[Section] = []
    for name, title, measure in _parts(options):
        began = time.monotonic()
        section = (
            Section(title, "", skipped=missing)
            if missing and name not in ("wire", "attacks", "secured", "pipelines")
            else measure()
        )
        sections.append(section)
        print("\n".join(results.section_lines(section)), "\n", flush=True)
        print(f"({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    date = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    described["others_share"] = others.share()
    for path in results.write(options.output, date, described, sections):
        print(f"written: {os.path.relpath(path)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
