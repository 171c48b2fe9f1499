import pytest
import torch

from leeway.ps.arithmetic.schedules import cosine, linear, staircase, warmup
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


def rates(fields, steps):
    settings = OptimizerSettings.read(fields)
    return [settings.learning_rate(step) for step in range(steps)]


def test_cosine_is_that_of_torch():
    expected = rates_of_torch(torch.optim.lr_scheduler.CosineAnnealingLR, 21, T_max=20)
    assert [0.3 * cosine(step, 20) for step in range(21)] == pytest.approx(expected, abs=1e-12)
    assert cosine(21, 20) == cosine(10**9, 20) == pytest.approx(0.0)


def test_linear_is_that_of_torch():
    expected = rates_of_torch(torch.optim.lr_scheduler.LinearLR, 25, start_factor=1.0, end_factor=1e-12, total_iters=20)
    assert [0.3 * linear(step, 20) for step in range(25)] == pytest.approx(expected, abs=1e-9)
    assert linear(20, 20) == linear(10**9, 20) == 0.0


def test_the_floor_of_cosine_is_eta_min_of_torch():
    expected = rates_of_torch(torch.optim.lr_scheduler.CosineAnnealingLR, 21, T_max=20, eta_min=0.03)
    fields = {"lr": 0.3, "lr_schedule": "cosine", "schedule_steps": 20, "min_lr": 0.03}
    assert rates(fields, 21) == pytest.approx(expected, abs=1e-12)
    assert rates(fields, 30)[20:] == [0.03] * 10


def test_the_floor_of_linear_is_the_end_of_torchs_line():
    scheduler = torch.optim.lr_scheduler.LinearLR
    expected = rates_of_torch(scheduler, 25, start_factor=1.0, end_factor=0.1, total_iters=20)
    fields = {"lr": 0.3, "lr_schedule": "linear", "schedule_steps": 20, "min_lr": 0.03}
    assert rates(fields, 25) == pytest.approx(expected, abs=1e-12)
    assert rates(fields, 25)[20:] == [0.03] * 5


def test_the_floor_of_step_is_where_its_drops_end():
    fields = {"lr": 1.0, "lr_schedule": "step", "step_every": 1, "gamma": 0.5, "min_lr": 0.2}
    assert rates(fields, 5) == [1.0, 0.5, 0.25, 0.2, 0.2]


def test_a_floor_is_for_what_comes_after_the_warm_up():
    fields = {"lr": 1.0, "lr_schedule": "linear", "schedule_steps": 6, "warmup_steps": 4, "min_lr": 0.5}
    assert rates(fields, 8) == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.5]
    assert rates({"lr": 0.1, "min_lr": 0.5}, 2) == [0.1, 0.1], "a constant rate has no floor"


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
