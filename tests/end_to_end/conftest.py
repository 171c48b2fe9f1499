"""Real servers and workers for the tests beside this file; whatever happens, none is left running."""

import os
from pathlib import Path

import pytest
import torch

from tests.end_to_end.commands import Commands


@pytest.fixture
def commands(tmp_path):
    """Starts the commands; what they said is shown when the test fails."""
    with Commands(tmp_path) as running:
        yield running
    for name, said in running.said().items():
        print(f"--- {name}\n{said}")


@pytest.fixture(scope="module")
def shared_commands(tmp_path_factory):
    """The same for what several tests of a module look at."""
    with Commands(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture
def data_dir():
    """The published data sets. Skips, by name, when they are not there."""
    place = Path(os.environ.get("PS_DATA_DIR") or "no-data-directory")
    if not (place / "mnist").is_dir():
        pytest.skip("PS_DATA_DIR holds no mnist/")
    return place


@pytest.fixture(autouse=True)
def _one_thread():
    # The processes of a test share few cores; and a mean over many threads is another mean.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
