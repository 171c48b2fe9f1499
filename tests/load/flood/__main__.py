"""`python -m tests.load.flood`: the flood alone, told in words on stdout.

`--short`: a few cells, half a minute. `--output DIR`: the figures as `flood.json` and the pictures as PNG too.

The one rule: what comes out is what the report of `tests.load` shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

from tests.load.flood.measure import measure
from tests.load.flood.plots import plots
from tests.load.flood.words import words


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flood", description="Pure load: many simulated workers against a server.")
    parser.add_argument("--short", action="store_true", help="a few cells, half a minute")
    parser.add_argument("--output", type=Path, help="folder for the figures (JSON) and the pictures (PNG)")
    return parser.parse_args()


def _tell(began: float, line: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)


def main() -> int:
    options = _arguments()
    figures = measure(options.short, partial(_tell, time.monotonic()))
    for sentence in words(figures):
        print(sentence)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "flood.json").write_text(json.dumps(figures.to_fields(), indent=1) + "\n")
        for number, (_, _, figure) in enumerate(plots(figures), start=1):
            figure.savefig(options.output / f"flood-{number}.png")
    return 0 if figures.complete else 1


if __name__ == "__main__":
    sys.exit(main())
