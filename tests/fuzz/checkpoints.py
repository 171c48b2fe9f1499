"""Checkpoints: the file, what it says of the run, and the machine that goes on from it.

An input is a file; it is read as it is, and once more with a digest that is right, as only who may write in the state
directory can make one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from leeway.errors import CheckpointError
from leeway.protocol.frames import Frame
from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.parameters import Saved
from leeway.ps.core import saved
from leeway.ps.server.saving import checked
from leeway.ps.storage.checkpoints import Checkpoint, Checkpoints
from leeway.ps.storage.digests import DIGEST_BYTES
from leeway.ps.storage.initial import spec_of
from leeway.ps.storage.safetensors_format import CHECKPOINT_KEY
from leeway.transport.memory.aligned import allocate_aligned
from tests.fuzz import requests, surface, trees
from tests.fuzz.heads import Text
from tests.fuzz.machines import SETTINGS, Asking
from tests.fuzz.target import Changed, one_line, same

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

WORDS = ("F32", "U8", "BF16", "dtype", "shape", "data_offsets", "__metadata__", *requests.WORDS)
_METADATA = "__metadata__"


class Target:
    longest_bytes = 8192
    reserved_bytes = 2**22

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "checkpoint-000000000001.safetensors"

    def seeds(self) -> Iterable[bytes]:
        for conversation in list(surface.Target(self._folder).seeds())[-6:]:
            yield _file(self._folder, conversation)

    def words(self) -> Iterable[str]:
        return WORDS

    def take(self, data: bytes) -> bool:
        accepted = self._take(data)
        return self._take(data[:-DIGEST_BYTES] + hashlib.sha256(data[:-DIGEST_BYTES]).digest()) or accepted

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        length = int.from_bytes(data[:8], "little")
        try:
            header = json.loads(data[8 : 8 + length])
            description = json.loads(header[_METADATA][CHECKPOINT_KEY])
            if chance.random() < 0.7:
                header[_METADATA][CHECKPOINT_KEY] = json.dumps(trees.changed(description, chance, WORDS))
            else:
                header = trees.changed(header, chance, WORDS)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    def _take(self, data: bytes) -> bool:
        self._path.write_bytes(data)
        try:
            checkpoint = checked(self._path)
            bodies = list(range(1, len(checkpoint.held) + 1))
            machine = saved.restore(SETTINGS, dict(checkpoint.core), bodies, 1, 0.0)
        except CheckpointError as error:
            one_line(error)
            return False
        except ValueError:
            return False  # it does not fit the settings
        json.dumps(saved.save(machine)[0])
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            again = checked(Checkpoints(Path(folder)).write(checkpoint, 1))
        same(checkpoint.core, again.core, "the state")
        same(_shown(checkpoint.groups), _shown(again.groups), "the groups")
        for one, other in zip(checkpoint.held, again.held, strict=True):
            same((one.message, one.places), (other.message, other.places), "a contribution")
            if bytes(one.body) != bytes(other.body):
                raise Changed("the body of a contribution")
        return True


def _shown(groups: Any) -> str:
    return repr(
        {name: (group.number, group.layout, bytes(group.body), group.optimizer) for name, group in groups.items()}
    )


def _file(folder: Path, conversation: bytes) -> bytes:
    """The checkpoint of a server that was asked this, its values being zeros and ones."""
    asking = Asking()
    for each in conversation.split(surface.BETWEEN):
        request, _ = requests.read(Text.of(each))
        asking.ask(request)
    state, bodies = saved.save(asking.machine)
    groups = {name: _values(group.specs, group.decided) for name, group in asking.machine.groups.items()}
    layout = Layout.of([spec_of("a", torch.ones(3))])
    held = [Frame({"clock": 0}, tuple(layout.places.values()), memoryview(bytes(layout.nbytes))) for _ in bodies]
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        return Checkpoints(Path(inner)).write(Checkpoint(state, groups, held), 1).read_bytes()


def _values(specs: Any, number: int) -> Saved:
    layout = Layout.of(specs.values())
    memory = allocate_aligned(layout.nbytes)
    Body(memory).clear()
    momentum = {f"momentum/{name}": torch.ones(3) for name in specs}
    return Saved(number, layout, memory, momentum, {"steps": 1})
