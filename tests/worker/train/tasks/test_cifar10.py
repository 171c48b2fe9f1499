import numpy as np
import pytest
import torch

from leeway.errors import DataError
from leeway.worker.train.data import cifar10
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.cifar10 import Cifar10

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    """Four made images in place of the files, each all red; the edition is set by calling."""

    def edition(which):
        images = np.zeros((4, 32, 32, 3), np.uint8)
        images[..., 0] = 255
        part = Labelled(images, np.arange(4, dtype=np.uint8))
        monkeypatch.setattr(cifar10, "load", lambda data_dir: cifar10.Cifar10(part, part, which))

    return edition


@pytest.mark.parametrize("which", list(cifar10.Edition))
def test_the_task_is_called_what_its_data_are(tiny, tmp_path, which):
    tiny(which)
    assert Cifar10(tmp_path).name == {"PUBLISHED": "CIFAR-10", "JPEG": "JPEG CIFAR-10"}[which.name]


def test_the_model_has_the_documented_size_and_takes_the_batch(tiny, tmp_path):
    tiny(cifar10.Edition.PUBLISHED)
    task = Cifar10(tmp_path)
    model = task.model(0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 122_570
    inputs, targets = task.batch(np.arange(3), CPU)
    assert inputs.shape == (3, 3, 32, 32)
    assert model(inputs).shape == (3, 10)
    assert targets.tolist() == [0, 1, 2]


def test_pixels_are_standardised_by_channel(tiny, tmp_path):
    tiny(cifar10.Edition.PUBLISHED)
    inputs, _ = Cifar10(tmp_path).batch(np.array([0]), CPU)
    expected = [(1 - 0.4917) / 0.2452, -0.4826 / 0.2427, -0.4472 / 0.2606]
    assert inputs[0, :, 5, 7].tolist() == pytest.approx(expected)


def test_without_the_files_the_error_says_which(tmp_path):
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        Cifar10(tmp_path)


@pytest.mark.data
def test_training_learns(published, training):
    task = Cifar10(published("cifar10"))
    task._test = Labelled(*(column[::10] for column in task._test))
    before, after = training(task, learning_rate=0.1, batch_size=32, steps=120)
    assert after["loss"] < before["loss"] - 0.1
    assert after["accuracy"] > before["accuracy"]
