import pytest
import torch

from leeway.worker.train.tasks.contexts import evaluating, seeded


def test_seeded_draws_by_the_seed_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3):
        again = torch.rand(4)
    with seeded(4):
        other = torch.rand(4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeded_restores_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), seeded(3):
        raise RuntimeError("inside")
    assert torch.equal(torch.random.get_rng_state(), before)


def frozen_in_part():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    model[1].eval()
    return model


def test_evaluating_restores_the_mode_of_each_submodule():
    model = frozen_in_part()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert not torch.is_inference_mode_enabled()


def test_evaluating_restores_after_an_error():
    model = frozen_in_part()
    with pytest.raises(RuntimeError, match="inside"), evaluating(model):
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_evaluating_touches_no_gradient_and_no_statistic():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    model(torch.randn(8, 2, generator=torch.Generator().manual_seed(0))).sum().backward()
    gradient, mean = model[1].weight.grad.clone(), model[0].running_mean.clone()
    with evaluating(model):
        assert not model(torch.ones(8, 2)).requires_grad
    assert torch.equal(model[1].weight.grad, gradient)
    assert torch.equal(model[0].running_mean, mean)
