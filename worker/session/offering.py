"""What a worker offers to a server that it meets: first the question, then the values that are wanted. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from leeway.protocol.offers import Offer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from leeway.protocol.tensors import TensorSpec


class Offering:
    """`question` carries all specs; the offer that follows it carries those that are wanted.

    `known`: the tensors of the group, as far as the server has told.
    """

    __slots__ = ("_holds", "_own", "_wanted", "_whole", "known", "question")

    def __init__(self) -> None:
        self.question = Offer((), ask=True)
        self.known: tuple[TensorSpec, ...] = ()
        self._whole = False
        self._own: frozenset[str] | None = None
        self._holds: Callable[[], str] = str
        self._wanted: tuple[TensorSpec, ...] | None = None

    def change(self, question: Offer, own: Collection[str] | None = None, holds: Callable[[], str] = str) -> None:
        """`own`: those of a question that is spread over stages which are offered here; None: all. `holds`: which
        values they are, whenever they are offered (`Offer`).
        """
        self._holds = holds
        self._own = None if own is None else frozenset(own)
        self.question = question
        self._wanted = None

    def meet(self, specs: tuple[TensorSpec, ...], *, whole: bool) -> None:
        """A server has these. `whole`: no key is added to them any more."""
        self.known, self._whole = specs, whole

    @property
    def is_needless(self) -> bool:
        """Whether the server need not be asked."""
        known = {spec.name: spec for spec in self.known}
        offered = self.question.specs
        # Of a whole model the server is told, unless it has been told of the same one: it says what differs.
        settled = not self.question.whole or (self._whole and len(known) == len(offered))
        return settled and all(known.get(spec.name) == spec for spec in offered)

    def begin(self) -> None:
        """Another server is met, or the same one lacks them again."""
        self._wanted = None

    def ask(self) -> Offer:
        """The request to send now: a new object each time."""
        if self._wanted is None:
            return dataclasses.replace(self.question, holds=self._holds())
        names = {spec.name for spec in self._wanted}
        aliases = {name: others for name, others in self.question.aliases.items() if name in names}
        # Where others offer the rest, these are not all keys.
        whole = self.question.whole and self._own is None and len(names) == len(self.question.specs)
        return dataclasses.replace(
            self.question, specs=self._wanted, ask=False, whole=whole, aliases=aliases, holds=self._holds()
        )

    def answered(self, wanted: tuple[str, ...]) -> bool:
        """Whether all is done; else the values that are wanted come next."""
        if self._wanted is not None and wanted:
            # Of several stages' offers: what was declared is forgotten, it is declared again.
            self._wanted = None
            return False
        ours = frozenset(wanted) if self._own is None else self._own.intersection(wanted)
        if self._wanted is None and ours:
            self._wanted = tuple(spec for spec in self.question.specs if spec.name in ours)
            return False
        # Stored or kept, the server knows all that were offered now.
        there = () if self.question.whole else self.known
        self.known = tuple({spec.name: spec for spec in (*there, *self.question.specs)}.values())
        return True
