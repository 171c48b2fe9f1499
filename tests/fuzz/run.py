"""One target in a process of its own: `python -m tests.fuzz.run TARGET --inputs N ...`. libFuzzer ends the process.

The one rule: whatever the target raises is a finding; so is memory beyond what the input explains, and an input that
takes longer than `SLOWEST_SECONDS`.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
import tracemalloc
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.target import Target

SLOWEST_SECONDS = 10
# What an input may hold at most: so many bytes for each of its own, beside what its target reserves. A JSON list of
# one-digit numbers has 32 bytes a digit, an empty msgpack list in a list about 60.
BYTES_PER_BYTE = 1024
# The interpreter's own: arenas, caches, a garbage collection that is due.
SLACK_BYTES = 8 * 2**20
# Allocations are traced for one input in so many; the process's peak is looked at after each.
TRACED_EVERY = 512
_TOLD_EVERY = 1024


class Held(AssertionError):
    """An input made the process hold more than it explains."""


class Measured:
    """Calls the target, and keeps account."""

    def __init__(self, target: Target, inputs: int, report: Path) -> None:
        self._target, self._inputs, self._report = target, inputs, report
        self._began = time.monotonic()
        self._count = self._accepted = self._traced = self._peak_bytes = 0
        self._longest_seconds = 0.0

    def take(self, data: bytes) -> None:
        self._count += 1
        allowed = self._target.reserved_bytes + SLACK_BYTES + BYTES_PER_BYTE * len(data)
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        if self._count % TRACED_EVERY:
            self._accepted += self._target.take(data)
        else:
            self._trace(data, allowed)
        self._longest_seconds = max(self._longest_seconds, time.perf_counter() - began)
        grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)
        # The first ones fill caches.
        if grown_bytes > allowed and self._count > 100:
            raise Held(f"{len(data)} bytes made the process larger by {grown_bytes}, {allowed} are explained")
        if self._count % _TOLD_EVERY == 0 or self._count >= self._inputs:
            self._tell()

    def _trace(self, data: bytes, allowed: int) -> None:
        tracemalloc.start(1)
        try:
            self._accepted += self._target.take(data)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self._traced += 1
        self._peak_bytes = max(self._peak_bytes, peak_bytes)
        if peak_bytes > allowed:
            raise Held(f"{len(data)} bytes made the process allocate {peak_bytes}, {allowed} are explained")

    def _tell(self) -> None:
        fields = {
            "inputs": self._count,
            "accepted": self._accepted,
            "seconds": time.monotonic() - self._began,
            "longest_seconds": self._longest_seconds,
            "traced": self._traced,
            "peak_input_bytes": self._peak_bytes,
            "peak_process_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        self._report.write_text(json.dumps(fields))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz.run", description=__doc__.partition("\n")[0])
    parser.add_argument("target")
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for the corpus, the report and what is found")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    import atheris

    # Branches of these lead the way; what else is imported is not ours to explore.
    with atheris.instrument_imports(
        include=["leeway.protocol", "leeway.ps.core", "leeway.ps.storage", "leeway.transport"]
    ):
        from tests.fuzz.registry import target

        folder: Path = options.folder
        fuzzed = target(options.target, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for index, seed in enumerate(fuzzed.seeds()):
        (corpus / f"seed-{index:03d}").write_bytes(seed)
    (folder / "words").write_text("".join(f'"{_quoted(word)}"\n' for word in fuzzed.words()))
    measured = Measured(fuzzed, options.inputs, folder / "report.json")

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < 0.5:
            try:
                changed = fuzzed.mutated(data, chance)
            except UnicodeError:
                changed = None
            if changed is not None and len(changed) <= most:
                return changed
        mutated: bytes = atheris.Mutate(data, most)
        return mutated

    flags = [
        f"-runs={options.inputs}",
        f"-seed={options.seed}",
        f"-max_len={fuzzed.longest_bytes}",
        f"-timeout={SLOWEST_SECONDS}",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-dict={folder / 'words'}",
        f"-artifact_prefix={folder}/found-",
        str(corpus),
    ]
    gc.freeze()
    options_of_atheris: dict[str, Any] = {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *flags], measured.take, **options_of_atheris)
    atheris.Fuzz()


def _quoted(word: str) -> str:
    return "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\x{byte:02x}" for byte in word.encode()
    )


if __name__ == "__main__":
    main()
