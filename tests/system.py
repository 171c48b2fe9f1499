"""Programs of the operating system that some tests run: Prometheus, Chromium and what comes with them, Node.

The one rule: a test that needs one calls `require`. On a developer's machine that lacks the program the test skips and
says its name and the package; under CI (the environment variable CI is set) it fails, so that nothing goes untested
unseen.

`python -m tests.system`, which is `make system`, installs what is missing where it can: as root, with apt-get.
Otherwise it says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "node": "nodejs",
}
"""The Debian package of each program."""

INSTALL_SECONDS = 900.0


def required_here() -> bool:
    """Whether a missing program is a failure: in CI it is."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def require(program: str) -> Path:
    """Where `program` is. Skips the test, or under CI fails it, when it is not installed."""
    found = shutil.which(program)
    if found is not None:
        return Path(found)
    message = f"{program} is not installed: `make system` as root, or install the package {PACKAGES[program]}"
    if required_here():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def missing() -> list[str]:
    """The programs that are not installed."""
    return [program for program in PACKAGES if shutil.which(program) is None]


def install(packages: list[str]) -> bool:
    """Install Debian packages, quietly. Returns whether it worked; what apt-get complains about is shown."""
    # At run level 1 no package starts its daemon; the tests start their own.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        ran = subprocess.run(
            ["apt-get", "-qq", *command], env=environment, stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS
        )
        if ran.returncode:
            return False
    return True


def main() -> int:
    """Install what is missing, or say it. It is no failure: tests that need it skip, or under CI fail, by name."""
    absent = missing()
    packages = sorted({PACKAGES[program] for program in absent})
    if absent and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing for the tests: {' '.join(packages)}", flush=True)
        install(packages)
        absent = missing()
        packages = sorted({PACKAGES[program] for program in absent})
    if absent:
        then = "fail" if required_here() else "skip by name"
        print(f"not installed: {', '.join(absent)}. Tests that need them {then}; install {' '.join(packages)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
