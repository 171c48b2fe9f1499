import numpy as np
import pytest
import torch

from leeway.errors import DataError
from leeway.worker.pipeline.layers import Layers
from leeway.worker.train.data import shakespeare
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.shakespeare import Shakespeare

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    """A made text of 241 characters to train on (three sequences) and 170 to test on (two)."""
    ids = (np.arange(411) % 65).astype(np.uint8)
    plays = shakespeare.Shakespeare(ids[:241], ids[241:], "?" * 65)
    monkeypatch.setattr(shakespeare, "load", lambda data_dir: plays)


def test_targets_are_the_next_characters(tiny, tmp_path):
    task = Shakespeare(tmp_path)
    assert task.train_samples() == 3
    inputs, targets = task.batch(np.arange(3), CPU)
    assert inputs.shape == targets.shape == (3, 80)
    assert inputs.flatten().tolist() == [i % 65 for i in range(240)]
    assert targets.flatten().tolist() == [i % 65 for i in range(1, 241)]


def test_the_model_has_the_documented_size_and_looks_only_back(tiny, tmp_path):
    task = Shakespeare(tmp_path)
    model = task.model(0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 815_945
    inputs, _ = task.batch(np.arange(2), CPU)
    scores = model(inputs)
    assert scores.shape == (2, 80, 65)
    changed = inputs.clone()
    changed[:, 50] = 0
    torch.testing.assert_close(model(changed)[:, :50], scores[:, :50])
    assert not torch.allclose(model(changed)[:, 50], scores[:, 50])


def test_the_model_can_be_cut_under_its_own_names(tiny, tmp_path):
    task = Shakespeare(tmp_path)
    with torch.device("meta"):
        layers = Layers(task.model(0))
    assert [layer.name for layer in layers.layers] == ["embedding", "lstm", "head"]
    assert list(layers.names) == list(task.model(0).state_dict())
    value, model = task.batch(np.arange(2), CPU)[0], task.model(0)
    scores = model(value)
    for layer in Layers(model).layers:
        value = layer.module(value)
    assert torch.equal(value, scores)


def test_evaluation_is_per_character(tiny, tmp_path):
    task = Shakespeare(tmp_path)
    model = task.model(0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[task.batch(np.array([0]), CPU)[1][0, 0]] = 1e-3
    result = task.evaluate(model, CPU)
    assert result["loss"] == pytest.approx(np.log(65), rel=1e-4)
    # Always the character 1: two or three of the 160 held-out targets.
    assert result["accuracy"] * 160 in (2, 3)


def test_without_the_file_the_error_says_which(tmp_path):
    with pytest.raises(DataError, match=r"tinyshakespeare\.txt"):
        Shakespeare(tmp_path)


@pytest.mark.data
def test_training_learns(published, training):
    task = Shakespeare(published("shakespeare"))
    assert task.train_samples() == 12_548
    assert len(task._test.labels) == 1_394
    task._test = Labelled(*(column[:100] for column in task._test))
    before, after = training(task, learning_rate=1.0, batch_size=10, steps=25)
    assert before["loss"] == pytest.approx(np.log(65), abs=0.1)
    assert after["loss"] < before["loss"] - 0.5
