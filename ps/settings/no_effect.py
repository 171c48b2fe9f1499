"""Settings that are given and change nothing, because another one does not ask for them.

The one rule: only what somebody has given is named, with the reason; what a group's table or the default group uses has
an effect. They are no mistakes that end the start: one file may serve for several modes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from leeway.protocol.ranks import DEFAULT_GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from leeway.ps.settings.config import GroupConfig, GroupSettings, ServerConfig


class _Use(NamedTuple):
    """Whether a group's settings ask for this one, and else why not."""

    is_asked_for: Callable[[GroupSettings], bool]
    why_not: Callable[[GroupSettings], str]


def _of_optimizers(*kinds: str) -> _Use:
    *others, last = kinds
    whose = f"{', '.join(others)} and {last}" if others else last
    return _Use(
        lambda group: group.optimizer in kinds, lambda group: f"it is of {whose}; --optimizer is {group.optimizer}"
    )


_USES: Final[Mapping[str, _Use]] = {
    "staleness": _Use(
        lambda group: group.mode == "ssp", lambda group: f"it is the bound of ssp; --mode is {group.mode}"
    ),
    "quorum": _Use(
        lambda group: group.mode == "sync" or group.quorum is None,
        lambda group: f"it is of the rounds of sync; --mode is {group.mode}",
    ),
    "grace_seconds": _Use(
        lambda group: group.mode == "sync" and group.quorum is not None,
        lambda group: (
            "it begins when a quorum has pushed; there is no --quorum"
            if group.mode == "sync"
            else f"it is of the rounds of sync; --mode is {group.mode}"
        ),
    ),
    "momentum": _of_optimizers("momentum", "nesterov", "rmsprop"),
    "beta1": _of_optimizers("adam", "adamw"),
    "beta2": _of_optimizers("adam", "adamw"),
    "alpha": _of_optimizers("rmsprop"),
    "rho": _of_optimizers("adadelta"),
    "centered": _Use(
        lambda group: group.optimizer == "rmsprop" or not group.centered,
        lambda group: f"it is of rmsprop; --optimizer is {group.optimizer}",
    ),
    "eps": _of_optimizers("adam", "adamw", "adagrad", "rmsprop", "adadelta"),
    "schedule_steps": _Use(
        lambda group: group.lr_schedule != "constant",
        lambda group: f"it is the length of a schedule; --lr-schedule is {group.lr_schedule}",
    ),
    "lr_gamma": _Use(
        lambda group: group.lr_schedule == "step",
        lambda group: f"it is the factor of step; --lr-schedule is {group.lr_schedule}",
    ),
    "min_lr": _Use(
        lambda group: group.lr_schedule != "constant",
        lambda group: f"it is the floor of a schedule that goes down; --lr-schedule is {group.lr_schedule}",
    ),
    "decay_vectors": _Use(
        lambda group: group.weight_decay > 0 or not group.decay_vectors, lambda group: "--weight-decay is 0"
    ),
}


def without_effect(
    config: ServerConfig, given: Collection[str], in_tables: Mapping[str, Collection[str]]
) -> dict[tuple[str, str], str]:
    """Why each of the given settings has no effect that has none, by the group's name and the field.

    `given`: the fields that stand outside the tables, behind a flag, or in the environment; those of the whole server
    count as the default group's. `in_tables`: those in each group's table.
    """
    groups = {group.name: group for group in config.groups}
    found = {}
    for field, use in _USES.items():
        for name, fields in {DEFAULT_GROUP: given, **in_tables}.items():
            if field not in fields:
                continue
            users = [groups[name]] if name != DEFAULT_GROUP else _heirs(groups, field, in_tables)
            if not any(use.is_asked_for(group) for group in users):
                found[name, field] = use.why_not(groups[name])
    if "checkpoint_keep" in given and config.state_dir is None:
        found[DEFAULT_GROUP, "checkpoint_keep"] = "there is no --state-dir, so nothing is saved"
    if "quarantine_after" in given and not any(map(_is_limited, groups.values())):
        why = "it counts updates that are refused for their norm; there is no --max-update-norm, and no ratio"
        found[DEFAULT_GROUP, "quarantine_after"] = why
    return found


def _is_limited(group: GroupConfig) -> bool:
    return group.max_update_norm is not None or group.max_update_norm_ratio is not None


def _heirs(
    groups: Mapping[str, GroupConfig], field: str, in_tables: Mapping[str, Collection[str]]
) -> list[GroupConfig]:
    """The groups that have the default group's value of this field, itself included."""
    return [group for name, group in groups.items() if field not in in_tables.get(name, ())]
