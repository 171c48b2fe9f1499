import pytest
import torch

from leeway.ps.arithmetic.parameters import Parameters
from leeway.ps.arithmetic.settings import MAX_RATE, MAX_STEPS, OptimizerKind, OptimizerSettings
from leeway.ps.arithmetic.trial import try_settings
from leeway.transport.memory.pool import Pool

KINDS = list(OptimizerKind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lr": 0.0},
        {"lr": MAX_RATE},
        {"clip_norm": 2**64},
        {"clip_norm": 1e-300},
        {"clip_norm": 1e300, "weight_decay": 1.0, "decay_vectors": True},
        {"momentum": 1e-300, "betas": [0.0, 0.0]},
        {"momentum": 0.5, "alpha": 0.0, "rho": 0.0, "centered": False},
        {"centered": True},
        {"lr": 0.5, "min_lr": 0.5, "lr_schedule": "linear", "schedule_steps": MAX_STEPS},
        {"lr_schedule": "cosine", "warmup_steps": MAX_STEPS - 1, "schedule_steps": MAX_STEPS},
        {"lr_schedule": "step", "step_every": 1, "gamma": 1e-300},
    ],
)
def test_what_the_fields_allow_makes_a_step(kind, fields):
    try_settings(OptimizerSettings.read({"kind": kind, **fields}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"kind": "adam", "lr": 0.1, "eps": 1e-300},
            "eps is 1e-300; no step can be made with it: a gradient of 0 leads to NaN",
        ),
        ({"kind": "adamw", "eps": 1e-60, "clip_norm": 1.0}, "eps is 1e-60; no step can be made with it"),
    ],
)
def test_what_torch_cannot_compute_with_is_named(fields, words):
    settings = OptimizerSettings.read(fields)
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        try_settings(settings)
    assert words in str(raised.value)
    with pytest.raises(ValueError, match="eps is"):
        Parameters(settings, Pool())


def test_an_error_of_torchs_is_told_with_the_field_that_mends_it(monkeypatch):
    def refuse(tensors):
        raise OverflowError("int too large to convert")

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", refuse)
    with pytest.raises(ValueError, match=r"clip_norm is 3\.0; no step can be made with it: int too large"):
        try_settings(OptimizerSettings(OptimizerKind.ADAM, lr=0.5, clip_norm=3.0))
