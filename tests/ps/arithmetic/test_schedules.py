import pytest
import torch

from leeway.ps.arithmetic.schedules import cosine, staircase, warmup
from leeway.ps.arithmetic.settings import OptimizerSettings


def rates_of_torch(scheduler, steps, **arguments):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    schedule = scheduler(optimizer, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_is_that_of_torch():
    expected = rates_of_torch(torch.optim.lr_scheduler.CosineAnnealingLR, 21, T_max=20)
    assert [0.3 * cosine(step, 20) for step in range(21)] == pytest.approx(expected, abs=1e-12)
    assert cosine(21, 20) == cosine(10**9, 20) == pytest.approx(0.0)


def test_staircase_is_that_of_torch():
    expected = rates_of_torch(torch.optim.lr_scheduler.StepLR, 20, step_size=6, gamma=0.5)
    assert [0.3 * staircase(step, 6, 0.5) for step in range(20)] == pytest.approx(expected)


def test_warmup_rises_in_equal_steps_to_the_full_rate():
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == 1.0


def test_schedules_begin_behind_the_warm_up():
    settings = OptimizerSettings.read(
        {"lr": 1.0, "lr_schedule": "step", "step_every": 2, "gamma": 0.5, "warmup_steps": 2}
    )
    assert [settings.learning_rate(step) for step in range(7)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    settings = settings.changed({"lr_schedule": "cosine", "schedule_steps": 4})
    assert [settings.learning_rate(step) for step in range(6)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0, 0.0])
