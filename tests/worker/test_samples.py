"""What is counted of what a loop reads, and which samples a worker draws."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import leeway
from leeway.worker.samples import Samples, of_batch
from tests.worker.callbacks.near import serving


@dataclass
class Standing:
    """What a sampler asks of a session."""

    index: int = 0
    count: int = 1
    samples: Samples = field(default_factory=Samples)


class Graphs:
    def __init__(self):
        self.name, self.x = "cora", torch.zeros(7, 3)


class Shaped:
    def __init__(self, *shape):
        self.shape = shape


def itself(*parts):
    """A batch that has itself as its first part."""
    batch = []
    batch += [batch, *parts]
    return batch


def deep(levels):
    batch = torch.zeros(3, 2)
    for _ in range(levels):
        batch = [batch]
    return batch


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.zeros(5, 2), 5),
        (np.zeros((4, 2)), 4),
        ([torch.zeros(3, 2), torch.zeros(3)], 3),
        (("names", {"ids": torch.zeros(6, 2)}), 6),
        ({"label": torch.zeros(2)}, 2),
        (Graphs(), 7),
        (torch.tensor(1.0), None),
        ([], None),
        ("text", None),
        (3, None),
        (itself(), None),
        (itself(torch.zeros(4, 2)), 4),
        (deep(10_000), 3),
        ([Shaped(np.int64(2)), Shaped(5)], 2),
        *(([Shaped(first), torch.zeros(4)], 4) for first in (2**70, -5, None, "12", 1.5)),
        ([Shaped(None)], None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_batch_has_as_many_samples_as_its_first_tensor_has_rows(batch, count):
    assert of_batch(batch) == count


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_that_has_no_shape_to_tell():
    batch = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)])
    with pytest.raises(RuntimeError):
        _ = batch.shape
    assert of_batch([batch, torch.zeros(2)]) == 2


def test_batches_count_in_place_of_draws():
    samples = Samples()
    for _ in range(3):
        samples.drew()
    assert samples.count == 3
    samples.read(torch.zeros(2, 1))
    samples.drew()
    assert samples.count == 2
    samples.taken("default")
    samples.taken("default")  # by another optimizer's step on the same batch
    assert (samples.count, samples.of("default"), samples.before("default")) == (0, 0, 2)
    assert (samples.of("other"), samples.before("other")) == (2, 0)


def test_together_they_read_every_sample_once():
    workers = [leeway.Sampler(range(10), Standing(index, 3), seed=4) for index in range(3)]
    for _ in range(2):
        drawn = [list(worker) for worker in workers]
        assert sorted(place for each in drawn for place in each) == list(range(10))
        assert [len(each) for each in drawn] == [4, 3, 3] == [len(worker) for worker in workers]


def test_each_epoch_has_an_order_of_its_own_that_can_be_asked_for():
    sampler, again = (leeway.Sampler(range(50), Standing(), seed=1) for _ in range(2))
    first, second = list(sampler), list(sampler)
    assert first != second
    assert list(leeway.Sampler(range(50), Standing(), seed=2)) != first
    again.set_epoch(1)
    assert list(again) == second


def test_who_comes_and_goes_is_seen_at_the_next_draw():
    standing = Standing()
    drawing = iter(leeway.Sampler(range(12), standing, shuffle=False))
    assert [next(drawing) for _ in range(4)] == [0, 1, 2, 3]
    standing.index, standing.count = 1, 2
    assert list(drawing) == [5, 7, 9, 11]
    assert standing.samples.count == 8


def test_more_workers_than_samples():
    samplers = [leeway.Sampler(range(2), Standing(index, 3), shuffle=False) for index in range(3)]
    assert [list(sampler) for sampler in samplers] == [[0], [1], []]
    words = "the size of the data set is 2, and there are 3 workers: none is left for number 2"
    assert [sampler.lack() for sampler in samplers] == ["", "", words]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"data_source": []}, "data set is empty"),
        ({"data_source": None}, "a NoneType has no length"),
        ({"session": None}, "session is None, it must be what leeway.connect returned"),
        ({"shuffle": "no"}, "shuffle is 'no', it must be True or False"),
    ],
)
def test_what_cannot_be_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        leeway.Sampler(**{"data_source": range(3), "session": Standing()} | options)


def test_an_epoch_is_a_number():
    with pytest.raises(ValueError, match="epoch is 'x', it must be an integer"):
        leeway.Sampler(range(3), Standing()).set_epoch("x")


def test_a_loader_takes_it():
    data = torch.utils.data.TensorDataset(torch.arange(10))
    sampler = leeway.Sampler(data, Standing(1, 2), shuffle=False)
    batches = list(torch.utils.data.DataLoader(data, batch_size=2, sampler=sampler))
    assert torch.cat([batch for (batch,) in batches]).tolist() == [1, 3, 5, 7, 9]


def test_a_share_with_no_sample_is_told_with_both_numbers():
    data = torch.utils.data.TensorDataset(torch.zeros(1, 2))
    with serving(mode="async") as url, leeway.connect(url, "w0") as other, leeway.connect(url, "w1") as session:
        other.join()
        session.attach(torch.nn.Linear(2, 1))
        loader = torch.utils.data.DataLoader(data, sampler=leeway.Sampler(data, session))
        with pytest.raises(
            ValueError, match="no batch: the size of the data set is 1, and there are 2 workers: none is left"
        ):
            next(session.epochs(loader))
        whole = torch.utils.data.DataLoader(data, batch_size=2, drop_last=True, sampler=leeway.Sampler([0, 1], session))
        with pytest.raises(
            ValueError, match="no batch: is the data set empty or, with drop_last, smaller than a batch"
        ):
            next(session.epochs(whole))
