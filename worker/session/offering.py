"""What a worker offers to a server that it meets: first the question, then the values that are wanted. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leeway.protocol.offers import Offer, Offered
    from leeway.protocol.tensors import TensorSpec


class Offering:
    """`question` carries all specs; the offer that follows it carries those that are wanted."""

    __slots__ = ("_wanted", "question")

    def __init__(self, question: Offer) -> None:
        self.question = question
        self._wanted: tuple[TensorSpec, ...] | None = None

    def ask(self) -> Offer:
        """The request to send now: a new object each time."""
        if self._wanted is None:
            return dataclasses.replace(self.question)
        return dataclasses.replace(self.question, specs=self._wanted, ask=False)

    def begin(self) -> None:
        """Another server is met, or the same one lacks them again."""
        self._wanted = None

    def is_needless(self, specs: Iterable[TensorSpec], *, whole: bool) -> bool:
        """Whether a server with these tensors need not be asked. `whole`: no key is added to them any more."""
        known = {spec.name: spec for spec in specs}
        offered = self.question.specs
        # Of a whole model the server is told, unless it has been told of the same one: it says what differs.
        settled = not self.question.whole or (whole and len(known) == len(offered))
        return settled and all(known.get(spec.name) == spec for spec in offered)

    def answered(self, offered: Offered) -> bool:
        """Whether all is done; else the values that are wanted come next."""
        if self._wanted is not None or not offered.wanted:
            return True
        wanted = frozenset(offered.wanted)
        self._wanted = tuple(spec for spec in self.question.specs if spec.name in wanted)
        return False

    def known_after(self, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """What a server has that had these: stored or kept, it knows all that were offered now."""
        there = () if self.question.whole else specs
        return tuple({spec.name: spec for spec in (*there, *self.question.specs)}.values())
