"""`make fuzz`, or `PYTHONPATH=. python -m tests.fuzz`: bad bytes, so many that what can be found by chance is found.

The one rule: it ends by itself: with a page under docs/benchmarks, or with the input that broke something.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from tests.bench import machine
from tests.fuzz import registry, report, served
from tests.fuzz.finding import ROOT, Ran, Started

# What one process takes, for each share of its target: about a minute or three, so that all are busy to the end.
_AT_ONCE = 20_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000_000, help="in all targets together")
    parser.add_argument("--targets", nargs="+", choices=list(registry.SHARES), default=list(registry.SHARES))
    parser.add_argument("--seed", type=int, default=int(time.time()), help="another one goes other ways")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--examples", type=int, default=200, help="for each operation of the OpenAPI file; 0: none")
    parser.add_argument(
        "--reproduce", nargs=2, metavar=("TARGET", "FILE"), help="take this one input, and nothing else"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", help="folder for the page")
    return parser.parse_args()


def _pieces(options: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Target, inputs, seed of each process."""
    pieces = []
    for name, inputs in registry.shares(options.inputs, options.targets).items():
        count = -(-inputs // (_AT_ONCE * registry.SHARES[name]))
        pieces += [(name, inputs // count + (at < inputs % count), options.seed + at) for at in range(count)]
    return sorted(pieces, key=lambda piece: -piece[1] / registry.SHARES[piece[0]])


def _run(piece: tuple[str, int, int], folder: Path) -> Ran:
    name, inputs, seed = piece
    own = folder / f"{name}-{seed}"
    own.mkdir()
    ran = Started(name, inputs, seed, own).wait()
    print(f"{name}, seed {seed}: {report.line(ran)}", flush=True)
    return ran


def _reproduce(name: str, path: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="leeway-fuzz-") as folder:
        accepted = registry.target(name, Path(folder)).take(path.read_bytes())
    print("accepted" if accepted else "refused, as documented")
    return 0


def main() -> int:
    options = _arguments()
    if options.reproduce:
        return _reproduce(options.reproduce[0], Path(options.reproduce[1]))
    if find_spec("atheris") is None:
        print("fuzz: atheris is not installed; there are wheels for Linux: pip install atheris", file=sys.stderr)
        return 2
    described, others, began = machine.describe(), machine.Others(), time.monotonic()
    # In memory, where that can be had: some inputs are files.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="leeway-fuzz-", dir=memory) as folder,
        ThreadPoolExecutor(options.processes) as pool,
    ):
        ran = list(pool.map(lambda piece: _run(piece, Path(folder)), _pieces(options)))
    seconds = time.monotonic() - began
    asked = served.ask(options.examples, options.seed) if options.examples else None
    broken = [one for one in ran if one.found is not None]
    for one in broken:
        assert one.found is not None
        path = Path(f"found-{one.target}.bin")
        path.write_bytes(one.found)
        print(f"\nFOUND in {one.target}: {one.said}\n{one.found.hex()}\n", file=sys.stderr)
        print(f"again: python -m tests.fuzz --reproduce {one.target} {path}", file=sys.stderr)
    if asked is not None and asked.failed:
        print(f"\nFOUND on the JSON surface:\n{asked.said}", file=sys.stderr)
    if broken or (asked is not None and asked.failed):
        return 1
    described["others_share"] = others.share()
    date = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    path = options.output / f"{date}-fuzz.md"
    path.write_text(report.page(date, described, ran, seconds, options.seed, asked))
    print(f"written: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
