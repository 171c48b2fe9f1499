"""The mean of figures of pieces."""

import pytest

from leeway.worker.train.tasks.mean import Mean


def test_each_piece_counts_by_its_samples():
    mean = Mean()
    mean.add({"loss": 1.0, "accuracy": 0.5}, 3)
    mean.add({"loss": 5.0, "accuracy": 0.0}, 1)
    assert mean.figures == {"loss": pytest.approx(2.0), "accuracy": pytest.approx(0.375)}


def test_without_a_piece_there_is_none():
    assert Mean().figures == {}
