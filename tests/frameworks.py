"""Lightning, transformers and Accelerate for the tests that need them, in an environment of their own.

The one rule: the environment that runs the tests stays as it is. Theirs lies within it, sees its packages (torch
above all), and holds only what the extras `lightning` and `transformers` want beyond those, as `constraints.txt`
pins it.

A test that needs it calls `require`; where it cannot be made, the test skips and says why. `make system` makes it by
`python -m tests.frameworks`; further arguments are pip's.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(sys.prefix) / "frameworks"
PYTHON = FOLDER / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = ("lightning", "transformers")

# Half a minute where nothing is cached and the index is near.
INSTALL_SECONDS = 250.0


def require() -> Path:
    """The environment's interpreter; makes the environment where there is none. Skips the test when that fails."""
    if problem := made():
        pytest.skip(f"there is no environment with Lightning and transformers: {problem}")
    return PYTHON


@functools.cache
def made(*pip_arguments: str) -> str | None:
    """Make the environment, unless it is there as it should be. Returns what kept it from being made."""
    stamp, wanted = FOLDER / "made-of", _digest()
    try:
        FOLDER.mkdir(exist_ok=True)
        # Tests on several cores begin at the same time.
        with (FOLDER / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not stamp.exists() or stamp.read_text() != wanted:
                stamp.unlink(missing_ok=True)
                _make(pip_arguments)
                stamp.write_text(wanted)
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or [f"pip ended with {error.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None


def requirements() -> list[str]:
    """What the extras name in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [requirement for extra in EXTRAS for requirement in project["optional-dependencies"][extra]]


def _digest() -> str:
    lines = [sys.version, *requirements(), CONSTRAINTS.read_text(encoding="utf-8")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _make(pip_arguments: tuple[str, ...]) -> None:
    venv.create(FOLDER, with_pip=False, symlinks=True)
    around = sysconfig.get_path("purelib")
    # `addsitedir`, for what is installed there by files like this one.
    line = f"import site; site.addsitedir({around!r})\n"
    within = sysconfig.get_path("purelib", vars={"base": str(FOLDER), "platbase": str(FOLDER)})
    (Path(within) / "around.pth").write_text(line, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "install", "--quiet"]
    command = [*pip, "-c", str(CONSTRAINTS), *pip_arguments, *requirements()]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)


def main() -> int:
    """Make the environment, or say why not. It is no failure: tests that need it skip by name."""
    if problem := made(*sys.argv[1:]):
        print(f"no environment with Lightning and transformers: {problem}. Tests that need it skip by name.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
