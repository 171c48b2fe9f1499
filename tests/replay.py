"""A recorded history, taken by a machine once more: does it decide the same?

The one rule: the events and the settings come from the file, everything else from the machine under test.
"""

from math import nan
from typing import get_args

from leeway.protocol.capacity import Capacity
from leeway.protocol.lives import Life
from leeway.protocol.messages import Request
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.replicas import Place
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.times import StepTimes
from leeway.protocol.versions import Version
from leeway.ps.core import events
from leeway.ps.core.endings import Goal, Plateau
from leeway.ps.core.saved import restore
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.history import plain

CLASSES = {
    found.__name__: found
    for found in (
        *get_args(events.Event),
        *get_args(Request),
        *(Capacity, Goal, GroupSettings, Life, Place, Plateau, Settings, StepTimes, TensorSpec),
    )
}
# A row has the terms of a policy among its own fields.
WITH_TERMS = {"GroupSettings", "SetPolicy"}
KINDS = {"Push": UpdateKind, "TensorSpec": Kind}


def revive(value):
    """What `plain` has made plain."""
    if isinstance(value, list):
        return tuple(revive(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "is" not in value:
        return {name: revive(item) for name, item in value.items()}
    fields = {name: revive(item) for name, item in value.items() if name != "is"}
    if fields.get("since") is not None:
        fields["since"] = Version.parse(fields["since"])
    if value["is"] == "Push":
        # A history has no NaN.
        fields["metrics"] = {name: nan if figure is None else figure for name, figure in fields["metrics"].items()}
    if value["is"] in KINDS:
        fields["kind"] = KINDS[value["is"]](fields["kind"])
    if value["is"] in WITH_TERMS:
        fields["terms"] = PolicyTerms(*(fields.pop(name) for name in ("mode", "staleness", "quorum", "grace_seconds")))
    return CLASSES[value["is"]](**fields)


def replay(rows):
    """Every start in these rows, from the state that it names. Raises `AssertionError` at the first other decision."""
    machine, steps = None, 0
    for row in rows:
        if row.get("is") == "Started":
            held = sum(
                len(one["bodies"]) for group in row["state"]["groups"].values() for one in group["held"].values()
            )
            machine = restore(revive(row["settings"]), row["state"], range(1, held + 1), row["epoch"], now=0.0)
            continue
        event = revive(row["event"])
        decided = [plain(effect) for effect in machine.step(event, row["t"])]
        assert decided == row["effects"], f"at {row['t']}: {event}"
        steps += 1
    return steps
