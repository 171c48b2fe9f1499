"""Checkpoints: everything the server knows, in one safetensors file that other tools can open too.

The one rule: a checkpoint is a state between two versions, complete and durable before it has its name.
What cannot be read as a whole, or is not what was written, is refused, never read in part and never passed over
for an older one in silence.

Tensors of a file: `model/<group>/<key>`, `master/<group>/<key>` of what is trained in half precision (files of before
there were masters have none), `optimizer/<group>/<state>/<key>`, `stage/<group>/<stage>/<name>` of what the stages of
a step carry to the next one, and `held/<n>`, the body of the n-th held contribution as bytes, with
`held/<n>/places`, where its tensors lie in it, as JSON. The metadata holds `leeway`, a JSON object with the rest. The
tensor `digest` is the last of the file, and the digest of all that lies before it.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from leeway import regular
from leeway.errors import CheckpointError
from leeway.protocol import documents
from leeway.protocol.frames import Frame
from leeway.protocol.spans import Layout, Place
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.parameters import Saved
from leeway.ps.storage.digests import DIGEST, DIGEST_BYTES, is_sound, sealed
from leeway.ps.storage.files import in_words, write_durably
from leeway.ps.storage.initial import spec_of
from leeway.ps.storage.safetensors_format import CHECKPOINT_KEY, Entry, entries, write
from leeway.transport.memory.aligned import allocate_aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FORMAT_VERSION = 2
# Of the versions before 0.2: the same without a digest.
_FORMAT_WITHOUT_DIGEST = 1


# Enough to go back once or twice; more would fill disks without being asked to.
DEFAULT_RETAINED = 3

_NAME = re.compile(r"checkpoint-(\d{12})\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds. `core` is plain data for JSON: what it means is for its owner to say.

    `held`: frames of contributions that are accepted and not yet applied, in an order that `core` refers to.
    `verified`: it was read, and has a digest; files of older versions have none.
    """

    core: Mapping[str, Any]
    groups: Mapping[str, Saved]
    held: Sequence[Frame] = field(default=())
    verified: bool = False


class Checkpoints:
    """The checkpoints of one folder, of which only one server writes; the newest `retained` are kept."""

    def __init__(self, folder: Path, retained: int = DEFAULT_RETAINED) -> None:
        if retained < 1:
            raise ValueError(f"the number of retained checkpoints is {retained}; it must be at least 1")
        self._folder = folder
        self._retained = retained

    def paths(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        return sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))

    def latest(self) -> Path | None:
        """The newest checkpoint, readable or not; None where there is none."""
        paths = self.paths()
        return paths[-1] if paths else None

    def write(self, checkpoint: Checkpoint, number: int) -> Path:
        """Write a checkpoint, then remove those beyond the newest `retained`.

        The file is named after `number`, or after the next free number above all that are there.
        Raises `OSError` when it cannot be written; the older ones are then still there. One of those that cannot be
        removed is left.
        """
        latest = self.latest()
        if latest is not None:
            number = max(number, _number(latest) + 1)
        path = self._folder / f"checkpoint-{number:012d}.safetensors"
        buffers = write(_entries(checkpoint), {CHECKPOINT_KEY: json.dumps(_description(checkpoint))})
        write_durably(path, sealed(buffers))
        with suppress(OSError):
            for old in self.paths()[: -self._retained]:
                old.unlink(missing_ok=True)
        return path


def read(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises `CheckpointError` for one that cannot be read, or is not what was written."""
    try:
        regular.check(path)
        verified = is_sound(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            description = documents.parse((file.metadata() or {})[CHECKPOINT_KEY])
            # Whatever is changed in a file with a digest, no single damage makes it one of those that have none.
            old = description["format"] == _FORMAT_WITHOUT_DIGEST and DIGEST not in file.keys()  # noqa: SIM118
            if not verified and not old:
                raise ValueError("it is not what was written, its digest is of something else")
            if description["format"] not in (FORMAT_VERSION, _FORMAT_WITHOUT_DIGEST):
                raise ValueError(f"it has format {description['format']}, this version reads {FORMAT_VERSION}")
            # Views of the file, which is mapped: each is copied once, to where it belongs.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(
                description["core"],
                {name: _read_group(name, group, tensors) for name, group in description["groups"].items()},
                [_read_held(index, held, tensors) for index, held in enumerate(description["held"])],
                verified,
            )
    except KeyError as error:
        raise CheckpointError(_words(path, f"{error} is missing")) from None
    except OSError as error:
        raise CheckpointError(_words(path, in_words(error))) from None
    except SafetensorError as error:
        raise CheckpointError(_words(path, f"it is damaged: {error}")) from None
    except Exception as error:
        # Whatever a wrong byte leads to: there is no end to the kinds.
        raise CheckpointError(_words(path, str(error) or type(error).__name__)) from None


def _words(path: Path, why: str) -> str:
    return f"unreadable checkpoint {path}: {' '.join(why.split())}"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "core": checkpoint.core,
        "groups": {
            name: {
                "number": saved.number,
                "kinds": {key: str(place.spec.kind) for key, place in saved.layout.places.items()},
                "optimizer": saved.optimizer,
                "states": list(saved.optimizer_tensors),
                "masters": list(saved.masters),
                "stages": {stage: list(state) for stage, state in saved.states.items()},
            }
            for name, saved in checkpoint.groups.items()
        },
        "held": [{"message": frame.message} for frame in checkpoint.held],
    }


def _entries(checkpoint: Checkpoint) -> list[Entry]:
    found = []
    for name, saved in checkpoint.groups.items():
        found += entries(saved.layout, saved.body, f"model/{name}/")
        found += [_entry(f"master/{name}/{key}", tensor) for key, tensor in saved.masters.items()]
        found += [_entry(f"optimizer/{name}/{state}", tensor) for state, tensor in saved.optimizer_tensors.items()]
        for stage, of_stage in saved.states.items():
            found += [_entry(f"stage/{name}/{stage}/{state}", tensor) for state, tensor in of_stage.items()]
    for index, frame in enumerate(checkpoint.held):
        found.append(Entry(f"held/{index}", "uint8", (frame.body.nbytes,), frame.body))
        # Not in the header, which has a limit: these grow with the workers.
        rows = [[*place.spec.to_row(), place.offset_bytes] for place in frame.places]
        packed = memoryview(json.dumps(rows).encode())
        found.append(Entry(f"held/{index}/places", "uint8", (packed.nbytes,), packed))
    # One byte wide and the last of those: it comes to lie at the end of the file.
    found.append(Entry(DIGEST, "uint8", (DIGEST_BYTES,), memoryview(bytes(DIGEST_BYTES))))
    return found


def _entry(name: str, tensor: torch.Tensor) -> Entry:
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    return Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data)


def _read_group(name: str, group: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Saved:
    values = {key: tensors[f"model/{name}/{key}"] for key in group["kinds"]}
    layout = Layout.of(spec_of(key, tensor, Kind(group["kinds"][key])) for key, tensor in values.items())
    memory = allocate_aligned(layout.nbytes)
    body = Body(memory)
    body.clear()
    for key, place in layout.places.items():
        body.tensor(place).copy_(values[key])
    states = {state: tensors[f"optimizer/{name}/{state}"] for state in group["states"]}
    masters = {key: tensors[f"master/{name}/{key}"] for key in group.get("masters", ())}
    # Copied, as the optimizer copies what it takes over: these are views of the file, which is mapped.
    stages = {
        stage: {state: tensors[f"stage/{name}/{stage}/{state}"].clone() for state in of_stage}
        for stage, of_stage in group.get("stages", {}).items()
    }
    return Saved(group["number"], layout, memory, states, group["optimizer"], masters, stages)


def _read_held(index: int, held: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Frame:
    body = tensors[f"held/{index}"]
    memory = allocate_aligned(body.numel())
    memory[:] = body.numpy().data
    # Older checkpoints have the places in the header.
    rows = held.get("places") or documents.parse(bytes(tensors[f"held/{index}/places"].numpy().data))
    places = tuple(
        Place(TensorSpec(name, tuple(shape), dtype, Kind(kind)), offset_bytes)
        for name, dtype, kind, shape, offset_bytes in rows
    )
    return Frame(held["message"], places, memory)
