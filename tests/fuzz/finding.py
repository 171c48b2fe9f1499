"""What a run of one target came to: its figures, or the input that broke it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import linux

ROOT = Path(__file__).resolve().parents[2]
# Nothing that is run takes longer; it ends by itself.
MOST_SECONDS = 4 * 3600


@dataclass(frozen=True, slots=True)
class Ran:
    """`covered`: branches of ours that inputs have come through, of all targets' modules that are loaded. `found`: the
    input, None where nothing was found; `said`: how it showed.
    """

    target: str
    inputs: int
    accepted: int
    seconds: float
    covered: int
    corpus: int
    longest_seconds: float
    peak_input_bytes: int
    peak_process_bytes: int
    found: bytes | None = None
    said: str = ""


class Started:
    """A process that fuzzes one target in an empty folder. `begin` it, then `wait`."""

    def __init__(self, target: str, inputs: int, seed: int, folder: Path) -> None:
        self.target, self._folder = target, folder
        self._log = folder / "log"
        command = [sys.executable, "-m", "tests.fuzz.run", target, "--inputs", str(inputs), "--seed", str(seed)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--folder", str(folder)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=linux.end_with_parent,
            )

    def wait(self, seconds: float = MOST_SECONDS) -> Ran:
        """Raises `RuntimeError` for a run that did not come to its end, and found nothing."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            raise RuntimeError(f"{self.target} was not done in {seconds:.0f} s") from None
        log = self._log.read_text(errors="replace")
        found = next(iter(sorted(self._folder.glob("found-*"))), None)
        if self._process.returncode and found is None:
            raise RuntimeError(f"{self.target} ended with {self._process.returncode}:\n{log[-3000:]}")
        report = self._folder / "report.json"
        told: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        last = re.findall(r"cov: (\d+) .*?corp: (\d+)/", log)
        covered, corpus = map(int, last[-1]) if last else (0, 0)
        return Ran(
            self.target,
            told.get("inputs", 0),
            told.get("accepted", 0),
            told.get("seconds", 0.0),
            covered,
            corpus,
            told.get("longest_seconds", 0.0),
            told.get("peak_input_bytes", 0),
            told.get("peak_process_bytes", 0),
            found.read_bytes() if found else None,
            _words(log) if found else "",
        )


def _words(log: str) -> str:
    _, _, after = log.partition("=== Uncaught Python exception: ===")
    return (after.partition("==")[0] or log[-2000:]).strip()
