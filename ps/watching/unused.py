"""What the settings name and no worker has used so far, most likely by another spelling. Pure.

Figures that a run ends by, and tables of parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol import parts
from leeway.protocol.ranks import DEFAULT_GROUP

if TYPE_CHECKING:
    from collections.abc import Collection

    from leeway.ps.core.machine import Machine

# After so many updates without it a figure is asked for. Some are told with every hundredth iteration only: it is no
# mistake then, and the line says how many there were.
UPDATES = 100


class Unused:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._updates = 0

    def figures(self) -> Collection[str]:
        """With one more update: the figures that nobody has told in `UPDATES`, once."""
        self._updates += 1
        return sorted(self._machine.endings.unheard) if self._updates == UPDATES else ()

    def tables(self) -> Collection[str]:
        """The groups with settings for a part of their name that nobody has joined."""
        named = (
            group.name
            for group in self._machine.settings.groups
            if group.name != DEFAULT_GROUP and group.keys == (parts.pattern(group.name),)
        )
        return [name for name in named if not self._machine.groups[name].arrived]
