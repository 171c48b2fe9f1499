import sys

import numpy as np
import pytest
import torch

from leeway.errors import DataError
from leeway.worker.train.tasks.digits import Digits

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Digits(tmp_path_factory.mktemp("empty"))


def test_the_split_is_whole_disjoint_and_fair(digits):
    train, test = digits._train, digits._test
    assert (len(train.labels), len(test.labels)) == (1_437, 360)
    counts = np.bincount(train.labels) + np.bincount(test.labels)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(test.labels).min() >= 24
    assert np.concatenate([train.inputs, test.inputs]).sum() == 561_718


def test_the_model_has_the_documented_size(digits):
    assert sum(parameter.numel() for parameter in digits.model(0).parameters()) == 4_810


def test_inputs_are_standardised(digits):
    inputs, _ = digits.batch(np.arange(1_437), CPU)
    assert inputs.shape == (1_437, 64)
    assert inputs.mean().item() == pytest.approx(0, abs=0.01)
    assert inputs.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("learning_rate", "batch_size", "steps"), [(0.3, 32, 200), (0.1, 32, 500), (0.5, 64, 200)])
@pytest.mark.parametrize("seed", [0, 1])
def test_plain_sgd_passes_95_percent(digits, training, learning_rate, batch_size, steps, seed):
    _, after = training(digits, learning_rate=learning_rate, batch_size=batch_size, steps=steps, seed=seed)
    assert after["accuracy"] > 0.95


def test_without_scikit_learn_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install scikit-learn, or '\.\[tasks\]' in your clone"):
        Digits(tmp_path)
