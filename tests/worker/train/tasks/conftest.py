"""The published data sets, where PS_DATA_DIR says they are, and plain training to try a task with."""

import os
from pathlib import Path

import pytest
import torch

from leeway.worker.train.data.partition import ShuffleAndSplit


@pytest.fixture
def published():
    """Return a function that gives the data directory, or skips the test if it lacks a set's folder."""

    def data_dir(folder: str) -> Path:
        place = Path(os.environ.get("PS_DATA_DIR") or "no-data-directory")
        if not (place / folder).is_dir():
            pytest.skip(f"PS_DATA_DIR holds no {folder}/")
        return place

    return data_dir


@pytest.fixture
def training():
    """Return a function that trains a task by plain SGD and gives its evaluations before and after."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")

    def train(task, *, learning_rate, batch_size, steps, model=None, seed=0):
        model = task.model(seed) if model is None else model
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        partition = ShuffleAndSplit(task.train_samples(), batch_size, seed)
        before = task.evaluate(model, cpu)
        for iteration in range(steps):
            inputs, targets = task.batch(partition.batch(iteration, 0, 1), cpu)
            optimizer.zero_grad()
            task.loss(model, inputs, targets).backward()
            optimizer.step()
        return before, task.evaluate(model, cpu)

    yield train
    torch.set_num_threads(threads)
