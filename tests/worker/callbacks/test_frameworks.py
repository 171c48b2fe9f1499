"""The callbacks with the real packages: the files `with_*.py` beside this one, run in the environment that has them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import frameworks

ROOT = Path(__file__).parents[3]
FILES = sorted(Path(__file__).parent.glob("with_*.py"))

RUN_SECONDS = 250.0


@pytest.mark.e2e
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem.removeprefix("with_"))
def test_with(file: Path) -> None:
    # The frameworks' own warnings are theirs to mend.
    command = [frameworks.require(), "-m", "pytest", file, "-q", "-W", "default", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_there_is_one_for_each_extra() -> None:
    assert {file.stem.removeprefix("with_") for file in FILES} == {*frameworks.EXTRAS, "accelerate"}
