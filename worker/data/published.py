"""The data sets that `ps-data` fetches: their files, where they are published, how large they are, their SHA-256.

The one rule: a file is named with all that tells it from any other, so it does not matter who hands it out. Nothing
heavy is imported here, for `ps-data --help` and a task's complaint name these sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Where the SHA-256 of a download comes from, in the words of the docs.
_AS_PUBLISHED: Final = "of a file with the MD5 that the publisher names"
_AT_A_COMMIT: Final = "of the file at this commit"
_OF_A_COPY: Final = "of a copy; the publisher names none"


class Member(NamedTuple):
    """A file that a loader reads: its path below the set's folder, and its size."""

    path: str
    size_bytes: int

    def is_in(self, folder: Path) -> bool:
        """Whether a file of this size is there. Its bytes are not read."""
        place = folder / self.path
        return place.is_file() and place.stat().st_size == self.size_bytes


@dataclass(frozen=True, slots=True)
class Download:
    """A file as it is handed out: a file of the set, or an archive of `members`.

    `path`: below the set's folder. `addresses`: tried in this order. `origin`: where `sha256` comes from.
    """

    path: str
    size_bytes: int
    sha256: str
    origin: str
    addresses: tuple[str, ...]
    members: tuple[Member, ...] = ()

    @property
    def wanted(self) -> tuple[Member, ...]:
        """What is there when all is done."""
        return self.members or (Member(self.path, self.size_bytes),)

    def missing(self, folder: Path) -> list[Member]:
        """What of it is not in the set's folder, or not of its size."""
        return [member for member in self.wanted if not member.is_in(folder)]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A published data set. `folder`: in the data directory. `in_place`: files that the loader takes as well."""

    name: str
    title: str
    folder: str
    task: str
    downloads: tuple[Download, ...]
    in_place: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """How much is sent over the network."""
        return sum(download.size_bytes for download in self.downloads)

    def missing(self, data_dir: Path) -> list[Member]:
        """What is not in the data directory, or not of its size."""
        folder = data_dir / self.folder
        return [member for download in self.downloads for member in download.missing(folder)]


def _mnist(name: str, size_bytes: int, sha256: str) -> Download:
    path = f"{name}-ubyte.gz"
    # LeCun's own page has the files no more for most who ask.
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
    return Download(path, size_bytes, sha256, _AS_PUBLISHED, tuple(f"{mirror}/{path}" for mirror in mirrors))


def _a9a(name: str, size_bytes: int, sha256: str) -> Download:
    address = f"https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/{name}"
    return Download(name, size_bytes, sha256, _OF_A_COPY, (address,))


def _named(*data_sets: DataSet) -> dict[str, DataSet]:
    return {data_set.name: data_set for data_set in data_sets}


_CIFAR10_MEMBERS: Final[Sequence[str]] = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]

DATA_SETS: Final = _named(
    DataSet(
        "mnist",
        "MNIST",
        "mnist",
        "mnist",
        (
            _mnist("train-images-idx3", 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            _mnist("train-labels-idx1", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            _mnist("t10k-images-idx3", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            _mnist("t10k-labels-idx1", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    ),
    DataSet(
        "cifar10",
        "CIFAR-10",
        "cifar10",
        "cifar10",
        (
            Download(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                _AS_PUBLISHED,
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                tuple(Member(f"cifar-10-batches-bin/{name}", 30_730_000) for name in _CIFAR10_MEMBERS),
            ),
        ),
        in_place=("data_batch_1.bin", "cifar10-dct.npz"),
    ),
    DataSet(
        "a9a",
        "a9a",
        "a9a",
        "a9a",
        (
            _a9a("a9a", 2_327_314, "7ba53cccb27e2e525f0fb173e1f446d49856e3fb007eb43be4ec6d0f5b3335ca"),
            _a9a("a9a.t", 1_164_628, "1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9"),
        ),
    ),
    DataSet(
        "howell",
        "Howell1",
        "height-weight",
        "linreg",
        (
            Download(
                "Howell1.csv",
                12_205,
                "768d2fb53d44490b35260903f58955548b26f587e7afaf4e00b2603715279bbd",
                _AT_A_COMMIT,
                (
                    "https://raw.githubusercontent.com/rmcelreath/rethinking/"
                    "ac1b3b2cda83f3e14096e2d997a6e30ad109eeee/data/Howell1.csv",
                ),
            ),
        ),
    ),
    DataSet(
        "shakespeare",
        "Tiny Shakespeare",
        "shakespeare",
        "shakespeare",
        (
            Download(
                "tinyshakespeare.txt",
                1_115_394,
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                _AT_A_COMMIT,
                (
                    "https://raw.githubusercontent.com/karpathy/char-rnn/"
                    "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
                ),
            ),
        ),
    ),
)
