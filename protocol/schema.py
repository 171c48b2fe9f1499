"""The keys of a group: how two sets of them differ, in words, and whether a group of this size can do all it must.

The one rule: a group that was taken can be pulled, pushed, saved, downloaded and joined. So its size is judged as a
sum, when keys are added, against every limit that it would meet later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol.limits import (
    MAX_METADATA_BYTES,
    MAX_METADATA_VALUES,
    MAX_SAFETENSORS_HEADER_BYTES,
    MAX_TENSORS,
)
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.tensors import aligned

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from leeway.protocol.capacity import Capacity
    from leeway.protocol.tensors import TensorSpec

# Names of keys in a refusal: enough to recognise the layer, few enough for one line.
SHOWN_NAMES = 4

# What stands beside the tensor table in a frame's metadata: the reply of a push and a pull, or an update's name and
# its figures.
MESSAGE_BYTES = 64 * 1024
MESSAGE_VALUES = 4096

# What stands beside the specs in a join reply: the state of MAX_GROUPS groups and of MAX_BARRIERS barriers.
JOIN_BYTES = 256 * 1024

# What stands beside the tensors in a checkpoint's header: groups, optimizers' settings, lives of ranks.
CHECKPOINT_BYTES = 32 * 1024 * 1024

# How often a tensor can be in a checkpoint beside its value: three tensors of Adam's state, and one to spare.
_STATES = 4

# What stands around a tensor's name and shape in a safetensors header: the longest prefix of a state without the
# group's name, dtype, two offsets of 13 digits, punctuation. Around a kind, and beside a row, which are JSON in JSON.
_ENTRY_BYTES = 112
_KIND_BYTES = 40

# msgpack: below this an integer takes so many bytes.
_INTEGER_BYTES = ((2**7, 1), (2**8, 2), (2**16, 3), (2**32, 5), (2**64, 9))


@dataclass(frozen=True, slots=True)
class Difference:
    """`missing`: keys that are there and not declared; `extra`: declared, and not there."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @classmethod
    def between(cls, there: Iterable[str], declared: Iterable[str]) -> Difference:
        known, wanted = dict.fromkeys(there), dict.fromkeys(declared)
        return cls(tuple(key for key in known if key not in wanted), tuple(key for key in wanted if key not in known))

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra)

    def __len__(self) -> int:
        return len(self.missing) + len(self.extra)

    def in_words(self, declared: str, there: str) -> str:
        """`declared` and `there`: what each of the two is called."""
        parts = []
        if self.missing:
            parts.append(f"lacks {_keys(self.missing, f'that {there} has')}")
        if self.extra:
            parts.append(f"has {_keys(self.extra, f'that {there} lacks')}")
        return f"{declared} {', and '.join(parts)}"

    def to_facts(self) -> dict[str, Any]:
        """For a refusal: the counts, and the first few of each."""
        return {
            "missing": list(self.missing[:SHOWN_NAMES]),
            "missing_count": len(self.missing),
            "extra": list(self.extra[:SHOWN_NAMES]),
            "extra_count": len(self.extra),
        }


def _keys(names: Collection[str], which: str) -> str:
    shown = ", ".join(list(names)[:SHOWN_NAMES])
    more = len(names) - SHOWN_NAMES
    plural = "s" if len(names) > 1 else ""
    return f"{len(names)} key{plural} {which} ({shown}{f' and {more} more' if more > 0 else ''})"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What keys take: bounds from above, never too small.

    `metadata_bytes` and `metadata_values`: the table in the frame of a full pull, packed and unpacked. `json_bytes`:
    in a join reply. `header_bytes`: in a checkpoint's header, which is larger than a download's.
    """

    tensors: int = 0
    body_bytes: int = 0
    metadata_bytes: int = 0
    metadata_values: int = 0
    json_bytes: int = 0
    header_bytes: int = 0

    @classmethod
    def of(cls, specs: Iterable[TensorSpec], group: str = DEFAULT_GROUP) -> Sizes:
        tensors = body = metadata = values = in_json = header = 0
        for spec in specs:
            row = spec.to_row()
            text = json.dumps(row)
            name_bytes = len(json.dumps(spec.name))
            shape_bytes = len(json.dumps(row[3]))
            tensors += 1
            body += aligned(spec.nbytes)
            metadata += _packed_bytes(spec)
            # The row and what is in it, its shape and what is in that, and its place in the table.
            values += 6 + 1 + len(spec.shape) + 1
            in_json += len(text) + 2
            # As a value and in the optimizer's state; then its kind and its row, which are JSON within JSON.
            header += (1 + _STATES) * (name_bytes + shape_bytes + _ENTRY_BYTES + len(group))
            header += len(json.dumps(json.dumps(spec.name))) + _KIND_BYTES + len(json.dumps(text)) + 2
        return cls(tensors, body, metadata, values, in_json, header)

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(
            self.tensors + other.tensors,
            self.body_bytes + other.body_bytes,
            self.metadata_bytes + other.metadata_bytes,
            self.metadata_values + other.metadata_values,
            self.json_bytes + other.json_bytes,
            self.header_bytes + other.header_bytes,
        )

    def excess(self, capacity: Capacity) -> str | None:
        """Which limit a group of this size is over, in words; None when it is taken."""
        return _over(
            (self.tensors, MAX_TENSORS, "tensors"),
            (self.body_bytes, capacity.max_body_bytes, "bytes in one body (--max-body)"),
            (
                self.metadata_bytes,
                MAX_METADATA_BYTES - MESSAGE_BYTES,
                "bytes of metadata (names and shapes) in a frame",
            ),
            (self.metadata_values, MAX_METADATA_VALUES - MESSAGE_VALUES, "values of metadata (dimensions) in a frame"),
        )

    def excess_together(self, capacity: Capacity) -> str | None:
        """The same for all groups of a server, which are in one join reply and in one checkpoint."""
        return _over(
            (self.json_bytes, capacity.max_schema_bytes - JOIN_BYTES, "bytes of names and shapes in a join reply"),
            (
                self.header_bytes,
                MAX_SAFETENSORS_HEADER_BYTES - CHECKPOINT_BYTES,
                "bytes of names and shapes in the header of a checkpoint",
            ),
        )


def _packed_bytes(spec: TensorSpec) -> int:
    """At most what a row of the table takes as msgpack (its specification): the offset is taken as the longest integer.

    Written out, because the core judges sizes and packs nothing.
    """
    texts = (len(spec.name.encode()), len(spec.dtype), len(spec.kind))
    packed = 1 + sum(length + (1 if length < 32 else 2 if length < 256 else 3) for length in texts) + 9
    packed += 1 if len(spec.shape) < 16 else 3
    for size in spec.shape:
        packed += next(width for limit, width in _INTEGER_BYTES if size < limit)
    return packed


def _over(*sizes: tuple[int, int, str]) -> str | None:
    return next((f"{size} {what}; the limit is {limit}" for size, limit, what in sizes if size > limit), None)
