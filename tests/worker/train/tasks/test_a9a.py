import numpy as np
import pytest
import torch

from leeway.errors import DataError
from leeway.worker.train.data import libsvm
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.a9a import A9a

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    """Four made rows in place of the files."""
    inputs = np.zeros((4, 123), np.float32)
    inputs[:, 0] = [0, 0, 1, 1]
    part = Labelled(inputs, np.array([0, 1, 1, 1], np.uint8))
    monkeypatch.setattr(libsvm, "load_a9a", lambda data_dir: (part, part))


def test_loss_and_accuracy_are_those_of_logistic_regression(tiny, tmp_path):
    task = A9a(tmp_path)
    model = task.model(0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124
    with torch.no_grad():
        model.weight.zero_()
        model.weight[0, 0] = 3.0
        model.bias.fill_(-1.0)
    # Log-odds -1 -1 2 2 for the labels 0 1 1 1: three right.
    losses = np.log1p(np.exp([-1.0, 1.0, -2.0, -2.0]))
    result = task.evaluate(model, CPU)
    assert result == {"loss": pytest.approx(losses.mean(), rel=1e-6), "accuracy": 0.75}
    inputs, targets = task.batch(np.arange(4), CPU)
    assert task.loss(model, inputs, targets).item() == pytest.approx(losses.mean(), rel=1e-6)


def test_without_the_files_the_error_says_which(tmp_path):
    with pytest.raises(DataError, match="ps-data get a9a"):
        A9a(tmp_path)


@pytest.mark.data
def test_training_beats_saying_no(published, training):
    task = A9a(published("a9a"))
    before, after = training(task, learning_rate=0.5, batch_size=100, steps=300)
    assert after["loss"] < 0.37 < before["loss"]
    assert after["accuracy"] > 0.82


ROW = "+1 3:1 123:1\n"


@pytest.fixture
def of_files(monkeypatch, tmp_path):
    """The task with made held-out rows, and three files of training rows; the published ones are not there."""
    held_out = Labelled(np.zeros((2, 123), np.float32), np.zeros(2, np.uint8))
    monkeypatch.setattr(libsvm, "load_a9a_held_out", lambda data_dir: held_out)
    files = [tmp_path / f"part-{number}" for number in range(3)]
    for number, file in enumerate(files):
        file.write_text(f"-1 {number + 1}:1\n" + ROW * number)
    return A9a(tmp_path, of_files=True), files


def test_of_files_nothing_is_read_before_it_is_asked_for(of_files):
    task, _ = of_files
    assert task.train_samples() == 0
    assert task.evaluate(task.model(0), CPU)["loss"] > 0


def test_it_holds_the_rows_of_the_files_that_were_asked_for_last(of_files):
    task, files = of_files
    assert task.read_files(files[1:]) == 5
    inputs, targets = task.batch(np.arange(5), CPU)
    assert inputs.shape == (5, 123)
    assert targets.tolist() == [0, 1, 0, 1, 1]
    assert task.read_files(files[:1]) == task.train_samples() == 1
    assert task.batch(np.arange(1), CPU)[0].nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [("2 1:1\n", r"has a label other than -1 and \+1$"), ("+1 124:1\n", "has a bad line 1: "), ("", "no samples")],
)
def test_a_bad_file_is_named_and_nobody_is_told_to_fetch_it(of_files, text, words):
    task, files = of_files
    files[2].write_text(text)
    with pytest.raises(DataError, match=words) as refused:
        task.read_files(files[2:])
    assert str(files[2]) in str(refused.value)
    assert "ps-data" not in str(refused.value)
