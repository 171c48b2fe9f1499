import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import leeway
from leeway.ps.arithmetic.schedules import Schedule
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings


def test_plain_data_and_back():
    settings = OptimizerSettings(
        OptimizerKind.ADAMW,
        lr=1e-3,
        betas=(0.8, 0.99),
        eps=1e-6,
        weight_decay=0.1,
        decay_vectors=True,
        clip_norm=1.0,
        lr_schedule=Schedule.COSINE,
        warmup_steps=10,
        schedule_steps=100,
        delta_scale=0.25,
    )
    assert OptimizerSettings.read(json.loads(json.dumps(settings.to_fields()))) == settings
    assert OptimizerSettings.read({}) == OptimizerSettings()


def test_some_fields_are_changed():
    settings = OptimizerSettings(clip_norm=1.0)
    assert settings.changed({"lr": 0.2, "clip_norm": None}) == OptimizerSettings(lr=0.2)


@pytest.mark.parametrize(("name", "value"), [("clip_norm", 2**64), ("lr", 1), ("delta_scale", 3), ("eps", 1)])
def test_whole_numbers_are_floats_from_the_start(name, value):
    found = getattr(OptimizerSettings.read({name: value}), name)
    assert (type(found), found) == (float, value)


def test_text_shows_what_is_not_the_default():
    assert str(OptimizerSettings()) == "sgd lr=0.1"
    assert str(OptimizerSettings.read({"kind": "adam", "clip_norm": 1.0})) == "adam lr=0.1 clip_norm=1.0"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"kind": "lamb"},
            "kind is 'lamb'; it must be one of sgd, momentum, nesterov, adam, adamw, adagrad, rmsprop, adadelta",
        ),
        ({"rate": 0.1}, "no setting 'rate'; known are kind, lr, "),
        ({"lr": -0.1}, "lr is -0.1; it must be a number at least 0 and at most 1e+06"),
        ({"lr": "0.1"}, "lr is '0.1'; it must be a number"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": True}, "lr is True"),
        ({"momentum": 1.0}, "momentum is 1.0; it must be a number at least 0 and below 1"),
        ({"kind": "momentum", "momentum": 0}, "momentum is 0; it must be above 0 and below 1, and momentum without it"),
        ({"kind": "nesterov", "momentum": 0.0}, "nesterov without it is sgd"),
        ({"alpha": 1}, "alpha is 1; it must be a number at least 0 and below 1"),
        ({"rho": -0.1}, "rho is -0.1; it must be a number at least 0 and below 1"),
        ({"rho": None}, "rho is None; it must be a number"),
        ({"centered": 1}, "centered is 1; it must be true or false"),
        ({"betas": [0.9]}, "betas is [0.9]; it must be two numbers"),
        ({"betas": [0.9, 1.0]}, "betas[1] is 1.0"),
        ({"betas": 3}, "betas is 3"),
        ({"eps": -1e-9}, "eps is -1e-09"),
        ({"weight_decay": 1.5}, "weight_decay is 1.5"),
        ({"decay_vectors": "no"}, "decay_vectors is 'no'; it must be true or false"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; it must be a number above 0 and finite"),
        ({"clip_norm": float("inf")}, "clip_norm is inf"),
        ({"clip_norm": 10**400}, "clip_norm is 1" + "0" * 76 + "...; it must be a number above 0 and finite"),
        ({"clip_norm": 10**5000}, "clip_norm is an integer of thousands of digits"),
        ({"lr": 1e7}, "lr is 10000000.0; it must be a number at least 0 and at most 1e+06"),
        ({"lr": -(2**2000)}, "lr is -1148"),
        ({"lr": [0.1] * 100_000}, "lr is [" + "0.1, " * 15 + "0..."),
        ({"betas": [0.9, [0.9]]}, "betas[1] is [0.9]; it must be a number"),
        ({"betas": [True, 0.9]}, "betas[0] is True"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"warmup_steps": 2**64}, "warmup_steps is 18446744073709551616; it must be an integer"),
        ({"schedule_steps": True}, "schedule_steps is True"),
        ({"decay_vectors": None}, "decay_vectors is None; it must be true or false"),
        ({"lr_schedule": ["cosine"]}, "lr_schedule is ['cosine']; it must be one of"),
        ({"lr_schedule": "falling"}, "lr_schedule is 'falling'; it must be one of constant, cosine, linear, step"),
        ({"lr_schedule": "linear"}, "schedule_steps is None; the linear schedule needs"),
        ({"min_lr": -1}, "min_lr is -1; it must be a number at least 0"),
        (
            {"lr": 0.1, "min_lr": 0.2, "lr_schedule": "step", "step_every": 2},
            "min_lr is 0.2; a floor must be at most the rate, and lr is 0.1",
        ),
        ({"lr_schedule": "cosine"}, "schedule_steps is None; the cosine schedule needs"),
        ({"lr_schedule": "cosine", "schedule_steps": 5, "warmup_steps": 5}, "more than the 5 of the warm-up"),
        ({"lr_schedule": "step"}, "step_every is missing"),
        ({"warmup_steps": -1}, "warmup_steps is -1; it must be an integer from 0"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5"),
        ({"step_every": 0}, "step_every is 0; it must be an integer from 1"),
        ({"schedule_steps": 0}, "schedule_steps is 0"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"delta_scale": 0.0}, "delta_scale is 0.0"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_limit(fields, words):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        OptimizerSettings.read(fields)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "momentum"),
    [
        ({"kind": "momentum"}, 0.9),
        ({"kind": "nesterov"}, 0.9),
        ({"kind": "nesterov", "momentum": 0.5}, 0.5),
        ({"kind": "rmsprop"}, 0.0),
        ({"kind": "rmsprop", "momentum": 0}, 0.0),
        ({"kind": "rmsprop", "momentum": 0.5}, 0.5),
        ({"kind": "sgd", "momentum": 0.5}, 0.0),
    ],
)
def test_without_a_momentum_each_kind_has_its_own(fields, momentum):
    assert OptimizerSettings.read(fields).applied_momentum == momentum


def test_settings_that_were_saved_before_there_were_these_are_read():
    fields = OptimizerSettings.read({"kind": "adam", "momentum": 0.9}).to_fields()
    for name in ("alpha", "rho", "centered", "min_lr"):
        del fields[name]
    assert OptimizerSettings.read(fields) == OptimizerSettings(OptimizerKind.ADAM, momentum=0.9)


def test_settings_need_no_torch():
    code = "import sys, ps.arithmetic.settings; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(leeway.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
