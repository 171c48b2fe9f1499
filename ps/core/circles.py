"""A circle of waiters over groups: each waits in one, and is waited for in another.

The one rule: only lives count that ask for one thing after another (`one_after_another`); who has several requests
under way may still push where it is missed. Within a group nobody who waits is waited for, so no circle lies in one.
A circle is closed by a pull that parks, by a switch, by an end of a life that a quorum had counted on, or by a push of
the slowest of them, behind whom others are then waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leeway.protocol.codes import Code
from leeway.protocol.ranks import natural
from leeway.protocol.refusals import Refused, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leeway.ps.core.groups import Group
    from leeway.ps.core.waiting import Waiting


class Wait(NamedTuple):
    """A worker's pull waits in `group`."""

    group: Group
    rank: str
    waiting: Waiting


def find(groups: Iterable[Group]) -> list[Wait]:
    """The waiters of one circle, each before one that it waits for, the last before the first; none: there is none.

    A group is stuck when too few of those it waits for can still come. Begin with all that wait, and take out those
    that are not stuck, until nothing changes. Costs O(groups squared x ranks that are waited for).
    """
    stuck = {group: awaited for group in groups if (awaited := group.pulls.awaited())}
    while len(stuck) > 1:
        free = [group for group in stuck if not _is_stuck(group, stuck)]
        if not free:
            return _around(stuck)
        for group in free:
            del stuck[group]
    return []


def refusal(circle: Sequence[Wait]) -> Refused:
    words = [
        f"{wait.rank} waits in group {wait.group.name} for {after.rank}"
        for wait, after in zip(circle, [*circle[1:], circle[0]], strict=True)
    ]
    return refuse(
        Code.DEADLOCK,
        f"none of these would ever go on: {', '.join(words)}; step the parts in the same order in every worker",
    )


def last(circle: Iterable[Wait]) -> Wait:
    """The one whose rank is the last in natural order."""
    return max(circle, key=lambda wait: natural(wait.rank))


def _is_stuck(group: Group, stuck: Mapping[Group, Sequence[str]]) -> bool:
    awaited = stuck[group]
    to_come = group.policy.needed(group, len(awaited))
    return sum(1 for rank in awaited if _elsewhere(rank, group, stuck) is None) < to_come


def _elsewhere(rank: str, group: Group, stuck: Mapping[Group, Sequence[str]]) -> Wait | None:
    """Where else this rank waits, in a group that is stuck."""
    for other in stuck:
        if other is not group and (waiting := other.pulls.stands_still(rank)):
            return Wait(other, rank, waiting)
    return None


def _around(stuck: Mapping[Group, Sequence[str]]) -> list[Wait]:
    """From one waiter to one that it waits for, until somebody comes again."""
    wait = _next(next(iter(stuck)), stuck)
    path: list[Wait] = []
    while wait not in path:
        path.append(wait)
        wait = _next(wait.group, stuck)
    return path[path.index(wait) :]


def _next(group: Group, stuck: Mapping[Group, Sequence[str]]) -> Wait:
    """The first that this group waits for and that waits elsewhere."""
    return next(wait for rank in stuck[group] if (wait := _elsewhere(rank, group, stuck)))
