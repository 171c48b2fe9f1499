"""What a worker offers to a server that it meets: first the question, then the values that are wanted. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from leeway.protocol.offers import Offer

if TYPE_CHECKING:
    from leeway.protocol.tensors import TensorSpec


class Offering:
    """`question` carries all specs; the offer that follows it carries those that are wanted.

    `known`: the tensors of the group, as far as the server has told.
    """

    __slots__ = ("_wanted", "_whole", "known", "question")

    def __init__(self) -> None:
        self.question = Offer((), ask=True)
        self.known: tuple[TensorSpec, ...] = ()
        self._whole = False
        self._wanted: tuple[TensorSpec, ...] | None = None

    def change(self, question: Offer) -> None:
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
            return dataclasses.replace(self.question)
        # Where the stages of a replica offer the others, these are not all keys.
        whole = self.question.whole and len(self._wanted) == len(self.question.specs)
        return dataclasses.replace(self.question, specs=self._wanted, ask=False, whole=whole)

    def answered(self, wanted: tuple[str, ...]) -> bool:
        """Whether all is done; else the values that are wanted come next."""
        if self._wanted is None and wanted:
            self._wanted = tuple(spec for spec in self.question.specs if spec.name in frozenset(wanted))
            return False
        # Stored or kept, the server knows all that were offered now.
        there = () if self.question.whole else self.known
        self.known = tuple({spec.name: spec for spec in (*there, *self.question.specs)}.values())
        return True
