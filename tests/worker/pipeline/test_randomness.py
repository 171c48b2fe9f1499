"""Seeds, and the generators of torch behind them."""

import pytest
import torch

from leeway.worker.pipeline.randomness import forward_seed, initial_seed, seeded

CPU = torch.device("cpu")


def test_each_place_and_time_has_a_seed_of_its_own():
    seeds = {
        forward_seed(seed, rank, layer, iteration, micro_batch)
        for seed in (1, 11)
        for rank in ("w0", "w1")
        for layer in (0, 1, 11)
        for iteration in (0, 1)
        for micro_batch in (0, 1, 11)
    }
    seeds |= {initial_seed(seed, layer) for seed in (1, 11) for layer in (1, 11)}
    assert len(seeds) == 2 * 2 * 3 * 2 * 3 + 4
    assert forward_seed(1, "w0", 0, 0, 0) == forward_seed(1, "w0", 0, 0, 0)


def test_the_values_never_change():
    """Two releases that draw otherwise would be two stages that disagree."""
    assert initial_seed(0, 0) == 40699722749937693
    assert forward_seed(7, "w0", 1, 2, 3) == 36021602617121636


def test_generators_are_put_back_also_behind_an_error():
    before = torch.get_rng_state()
    with seeded(3, CPU):
        first = torch.rand(4)
    with pytest.raises(RuntimeError, match="negative"), seeded(3, CPU):
        torch.rand(-1)
    with seeded(3, CPU):
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(4, CPU):
        assert not torch.equal(torch.rand(4), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_generators_of_a_gpu_likewise():
    gpu = torch.device("cuda", 0)
    before = torch.cuda.get_rng_state(gpu)
    drawn = []
    for _ in range(2):
        with seeded(3, gpu):
            drawn.append(torch.rand(4, device=gpu))
    assert torch.equal(*drawn)
    assert torch.equal(torch.cuda.get_rng_state(gpu), before)
