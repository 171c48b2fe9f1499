"""Which of the given settings change nothing, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from leeway.ps.settings.config import GroupConfig, ServerConfig
from leeway.ps.settings.no_effect import without_effect


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"mode": "async", "staleness": 3}, {"staleness": "it is the bound of ssp; --mode is async"}),
        ({"staleness": 3}, {"staleness": "it is the bound of ssp; --mode is sync"}),
        ({"mode": "ssp", "staleness": 3}, {}),
        ({"momentum": 0.5}, {"momentum": "it is of momentum, nesterov and rmsprop; --optimizer is sgd"}),
        ({"momentum": 0.5, "optimizer": "rmsprop", "alpha": 0.9, "centered": True}, {}),
        ({"alpha": 0.9}, {"alpha": "it is of rmsprop; --optimizer is sgd"}),
        ({"rho": 0.8}, {"rho": "it is of adadelta; --optimizer is sgd"}),
        ({"rho": 0.8, "eps": 0.1, "optimizer": "adadelta"}, {}),
        ({"centered": True}, {"centered": "it is of rmsprop; --optimizer is sgd"}),
        ({"centered": False}, {}),
        ({"lr_gamma": 0.5, "min_lr": 0.1, "lr_schedule": "step", "schedule_steps": 9}, {}),
        (
            {"lr_gamma": 0.5, "min_lr": 0.1, "lr_schedule": "linear", "schedule_steps": 9},
            {"lr_gamma": "it is the factor of step; --lr-schedule is linear"},
        ),
        (
            {"min_lr": 0.01},
            {"min_lr": "it is the floor of a schedule that goes down; --lr-schedule is constant"},
        ),
        ({"momentum": 0.5, "optimizer": "nesterov"}, {}),
        ({"beta1": 0.5}, {"beta1": "it is of adam and adamw; --optimizer is sgd"}),
        ({"beta2": 0.5, "optimizer": "adagrad"}, {"beta2": "it is of adam and adamw; --optimizer is adagrad"}),
        ({"eps": 0.5, "optimizer": "adagrad"}, {}),
        ({"eps": 0.5}, {"eps": "it is of adam, adamw, adagrad, rmsprop and adadelta; --optimizer is sgd"}),
        ({"schedule_steps": 9}, {"schedule_steps": "it is the length of a schedule; --lr-schedule is constant"}),
        ({"schedule_steps": 9, "lr_schedule": "step"}, {}),
        ({"decay_vectors": True}, {"decay_vectors": "--weight-decay is 0"}),
        ({"decay_vectors": False}, {}),
        ({"decay_vectors": True, "weight_decay": 0.1}, {}),
        ({"checkpoint_keep": 2}, {"checkpoint_keep": "there is no --state-dir, so nothing is saved"}),
        ({"checkpoint_keep": 2, "state_dir": Path("state")}, {}),
        (
            {"quarantine_after": 2},
            {
                "quarantine_after": "it counts updates that are refused for their norm; there is no --max-update-norm, "
                "and no ratio"
            },
        ),
        ({"quarantine_after": 2, "max_update_norm": 1.0}, {}),
        ({"quarantine_after": 2, "max_update_norm_ratio": 5.0}, {}),
        ({"warmup_steps": 5, "clip_norm": 1.0, "delta_scale": 0.5, "until": 3, "workers": 2}, {}),
    ],
)
def test_given_for_the_whole_server(settings: dict[str, object], why: dict[str, str]) -> None:
    found = without_effect(ServerConfig(**settings), settings.keys(), {})
    assert found == {("default", field): words for field, words in why.items()}
    assert without_effect(ServerConfig(**settings), (), {}) == {}, "what is a default is nobody's mistake"


def with_group(mode: str, group_mode: str, staleness: int | None) -> dict[tuple[str, str], str]:
    """A server with a staleness of 3, and a group whose table says its mode, and perhaps a staleness."""
    group = GroupConfig(name="a", keys=("a.*",), mode=group_mode, staleness=3 if staleness is None else staleness)
    config = ServerConfig(mode=mode, staleness=3, named_groups=(group,))
    table = ["mode"] if staleness is None else ["mode", "staleness"]
    return without_effect(config, ["mode", "staleness"], {"a": table})


def test_a_group_that_inherits_it_may_use_it() -> None:
    assert with_group("async", "ssp", None) == {}
    assert with_group("ssp", "async", None) == {}
    assert with_group("async", "sync", None) == {("default", "staleness"): "it is the bound of ssp; --mode is async"}


def test_a_group_that_has_its_own_does_not() -> None:
    assert with_group("async", "ssp", 5) == {("default", "staleness"): "it is the bound of ssp; --mode is async"}
    assert with_group("ssp", "async", 5) == {("a", "staleness"): "it is the bound of ssp; --mode is async"}
