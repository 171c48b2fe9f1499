"""Initial values are offered, and each key is stored or kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Offer:
    """Initial values, judged key by key; `ask` is the question before: which of these are wanted at all?

    `whole`: these are all keys of the group, and a group with others is refused. `group`: all keys are of this one;
    None: each is of the group whose patterns it matches, and a whole offer is about the default one. `aliases`:
    further names of tied tensors, under which a file may have them. `spread`: this question declares what several
    stages then offer, each its own values; nothing is readable before all of them are there. `holds`: which values
    these are, by the version that the stage has pulled; empty: initial ones. Those of different versions are never put
    together. `from_file`: the server's own, of `--init`.
    """

    specs: tuple[TensorSpec, ...]
    ask: bool = False
    whole: bool = False
    group: str | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    from_file: bool = False
    spread: bool = False
    holds: str = ""

    def __str__(self) -> str:
        verb = "ask" if self.ask else "init" if self.from_file else "offer"
        return f"{verb} {'whole ' if self.whole else ''}{','.join(spec.name for spec in self.specs)}"

    @classmethod
    def read(cls, fields: Fields, specs: tuple[TensorSpec, ...], *, ask: bool) -> Offer:
        aliases = fields.mapping("aliases", limits.MAX_TENSORS) if "aliases" in fields else {}
        names = {spec.name for spec in specs}
        for name, others in aliases.items():
            if name not in names:
                raise MalformedRequest(f"offer: 'aliases' has {name[:80]!r}, which is no tensor of this offer")
            if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
                raise MalformedRequest(f"offer: 'aliases' of {name[:80]!r} must be a list of names")
            if not names.isdisjoint(others):
                raise MalformedRequest(f"offer: an alias of {name[:80]!r} is a tensor of this offer too")
        return cls(
            specs,
            ask,
            whole=fields.flag("whole"),
            group=fields.rank("group") if "group" in fields else None,
            aliases={name: tuple(others) for name, others in aliases.items()},
            spread=fields.flag("spread"),
            holds=fields.text("holds") if "holds" in fields else "",
        )

    def to_fields(self) -> dict[str, Any]:
        """What goes with the specs in the question, and in the frame's metadata with the values."""
        fields: dict[str, Any] = {}
        if self.whole:
            fields["whole"] = True
        if self.group is not None:
            fields["group"] = self.group
        if self.aliases:
            fields["aliases"] = {name: list(others) for name, others in self.aliases.items()}
        if self.spread:
            fields["spread"] = True
        if self.holds:
            fields["holds"] = self.holds
        return fields


@dataclass(frozen=True, slots=True)
class Offered:
    """Key by key: stored now (or, after the question: `wanted`), or kept as it was."""

    stored: tuple[str, ...]
    kept: tuple[str, ...]
    wanted: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(
            f"{verb}={','.join(names)}"
            for verb, names in (("stored", self.stored), ("kept", self.kept), ("wanted", self.wanted))
            if names
        )

    @classmethod
    def read(cls, value: object) -> Offered:
        fields = Fields(value, "offered")
        lists = [
            tuple(str(name) for name in fields.listing(key, limits.MAX_TENSORS)) for key in ("stored", "kept", "wanted")
        ]
        return cls(*lists)

    def to_fields(self) -> dict[str, Any]:
        return {"stored": list(self.stored), "kept": list(self.kept), "wanted": list(self.wanted)}
