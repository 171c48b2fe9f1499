"""What is said of the published sets is what the loaders read; `test_cli` compares it with the files themselves."""

import re

import pytest

from leeway.worker.data.published import DATA_SETS
from leeway.worker.train.data import cifar10, howell, libsvm, mnist, shakespeare
from leeway.worker.train.tasks.task import BUILT_IN

SOURCES = {
    "mnist": mnist.SOURCE,
    "cifar10": cifar10.SOURCE,
    "a9a": libsvm.A9A,
    "howell": howell.SOURCE,
    "shakespeare": shakespeare.SOURCE,
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_set_is_called_what_its_loader_calls_it(name):
    data_set, source = DATA_SETS[name], SOURCES[name]
    assert (data_set.name, data_set.title, data_set.folder) == (source.name, source.title, source.folder)
    assert data_set.task in BUILT_IN


@pytest.mark.parametrize(
    "download", [one for each in DATA_SETS.values() for one in each.downloads], ids=lambda one: one.path
)
def test_a_download_says_all_that_is_needed(download):
    assert re.fullmatch("[0-9a-f]{64}", download.sha256)
    assert download.size_bytes > 0
    assert all(address.startswith("https://") for address in download.addresses)
    assert download.addresses


def test_the_batches_of_cifar10_have_the_size_that_the_loader_wants(tmp_path):
    members = DATA_SETS["cifar10"].downloads[0].members
    for path, size_bytes in members:
        place = tmp_path / "cifar10" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            file.truncate(size_bytes)
    assert cifar10.load(tmp_path).edition == cifar10.Edition.PUBLISHED
    assert DATA_SETS["cifar10"].missing(tmp_path) == []
