import numpy as np
import pytest
import torch
from torch.nn import functional

from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.mean import Mean

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


class Spy(torch.nn.Module):
    """A linear layer that remembers how many samples it saw at once, and in which mode."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)
        self.calls = []

    def forward(self, inputs):
        self.calls.append((len(inputs), self.training))
        return self.layer(inputs)


class Example(Classification):
    name = "example"
    evaluation_chunk_samples = 10

    def __init__(self, data_dir=None, model=None):
        train = Labelled(RNG.integers(0, 9, (50, 3), dtype=np.uint8), RNG.integers(0, 4, 50, dtype=np.uint8))
        test = Labelled(RNG.integers(0, 9, (23, 3), dtype=np.uint8), RNG.integers(0, 4, 23, dtype=np.uint8))
        self.parts = train, test
        super().__init__(train, test)

    def build(self):
        return Spy()

    def prepare(self, samples):
        return samples.float() / 9


def test_a_batch_is_the_asked_samples_prepared():
    task = Example()
    indices = np.array([7, 7, 0])
    inputs, targets = task.batch(indices, CPU)
    train, _ = task.parts
    torch.testing.assert_close(inputs, torch.tensor(train.inputs[indices]).float() / 9)
    assert targets.tolist() == train.labels[indices].tolist()
    assert targets.dtype == torch.int64
    assert task.train_samples() == 50


def test_a_batch_from_read_only_arrays_is_no_view_of_them():
    task = Example()
    for array in task.parts[0]:
        array.flags.writeable = False
    _, targets = task.batch(np.arange(3), CPU)
    targets += 1
    assert targets.tolist() == (task.parts[0].labels[:3] + 1).tolist()


def test_evaluation_in_chunks_equals_evaluation_at_once():
    task = Example()
    model = task.model(1)
    _, test = task.parts
    with torch.no_grad():
        scores = model.layer(torch.tensor(test.inputs).float() / 9)
    targets = torch.tensor(test.labels).long()
    result = task.evaluate(model, CPU)
    assert result["loss"] == pytest.approx(functional.cross_entropy(scores, targets).item(), rel=1e-6)
    assert result["accuracy"] == pytest.approx((scores.argmax(1) == targets).float().mean().item())
    assert model.calls == [(10, False), (10, False), (3, False)]
    assert model.training


def test_pieces_of_the_held_out_samples_are_those_that_are_evaluated():
    task = Example()
    model = task.model(1)
    pieces = np.array_split(np.arange(task.held_out_samples()), 4)
    mean = Mean()
    with torch.inference_mode():
        for indices in pieces:
            inputs, targets = task.held_out(indices, CPU)
            mean.add(task.figures(model(inputs), targets), len(indices))
    assert mean.figures == pytest.approx(task.evaluate(model, CPU))


def test_the_model_depends_on_the_seed_alone():
    task = Example()
    before = torch.random.get_rng_state()
    first, again, other = task.model(5), task.model(5), task.model(6)
    assert torch.equal(first.layer.weight, again.layer.weight)
    assert not torch.equal(first.layer.weight, other.layer.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_scores_of_sequences_are_judged_target_by_target():
    task = Example()
    scores = torch.zeros(2, 3, 4)
    scores[0, :, 1] = 100.0
    targets = torch.tensor([[1, 1, 2], [0, 0, 0]])
    assert task.correct(scores, targets).tolist() == [[True, True, False], [True, True, True]]
    expected = (100 + 3 * np.log(4)) / 6
    assert task.criterion(scores, targets).item() == pytest.approx(expected, rel=1e-6)
