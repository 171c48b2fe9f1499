import numpy as np
import pytest
import torch

from leeway.errors import DataError
from leeway.worker.train.data import howell
from leeway.worker.train.data.howell import Howell
from leeway.worker.train.tasks import linreg
from leeway.worker.train.tasks.linreg import LinearRegression

CPU = torch.device("cpu")


@pytest.fixture
def people(monkeypatch):
    """Twenty made people of known line, ten of them children with absurd weights."""
    height = np.linspace(140, 178, 20)
    age = np.where(np.arange(20) % 2 == 0, 18, 17.9)
    weight = np.where(age >= 18, 0.6 * height - 50, 1e6)
    monkeypatch.setattr(howell, "load", lambda data_dir: Howell(height, weight, age, age > 0))


def test_only_adults_are_used_and_every_fifth_is_held_out(people, tmp_path):
    task = LinearRegression(tmp_path)
    assert task.train_samples() == 8
    heights, weights = task.batch(np.arange(8), CPU)
    assert heights.shape == weights.shape == (8, 1)
    assert heights.dtype == weights.dtype == torch.float32
    assert heights.mean().item() == pytest.approx(0, abs=1e-6)
    assert heights.std(correction=0).item() == pytest.approx(1, rel=1e-6)
    centimetres = heights[:, 0] * task.deviation_cm + task.mean_cm
    assert centimetres.tolist() == pytest.approx([140, 144, 148, 152, 160, 164, 168, 172])


def test_least_squares_finds_an_exact_line_on_held_out_people_too(people, tmp_path):
    task = LinearRegression(tmp_path)
    slope, intercept = task.least_squares()
    assert slope == pytest.approx(0.6 * task.deviation_cm, rel=1e-6)
    assert intercept == pytest.approx(0.6 * task.mean_cm - 50, rel=1e-6)
    model = task.model(0)
    with torch.no_grad():
        model.weight.fill_(slope)
        model.bias.fill_(intercept)
    assert task.evaluate(model, CPU) == {"loss": pytest.approx(0, abs=1e-8)}


def test_without_the_file_the_error_says_which(tmp_path):
    with pytest.raises(DataError, match=r"Howell1\.csv"):
        LinearRegression(tmp_path)


@pytest.mark.data
def test_gradient_descent_finds_the_least_squares_solution(published, training):
    task = LinearRegression(published("height-weight"))
    assert task.train_samples() == 282
    model = task.model(0)
    before, after = training(task, learning_rate=0.3, batch_size=282, steps=60, model=model)
    assert (model.weight.item(), model.bias.item()) == pytest.approx(task.least_squares(), rel=1e-4)
    assert after["loss"] < 20 < before["loss"]


@pytest.mark.data
def test_the_solution_is_the_documented_one(published):
    assert LinearRegression(published("height-weight")).least_squares() == pytest.approx((4.819, 45.036), abs=5e-4)


HEADER = "height;weight;age;male\n"


@pytest.fixture
def of_files(tmp_path):
    """The task, and two files of ten adults and a child each."""
    files = [tmp_path / f"part-{number}.csv" for number in range(2)]
    for number, file in enumerate(files):
        rows = [f"{140 + 2 * row};{40 + row + number};30;1\n" for row in range(10)]
        file.write_text(HEADER + "100;15;5;0\n" + "".join(rows))
    return LinearRegression(tmp_path, of_files=True), files


def test_it_holds_the_adults_of_the_files_that_were_asked_for_last(of_files):
    task, files = of_files
    assert task.train_samples() == 0
    assert task.read_files(files) == 16
    assert task.read_files(files[1:]) == task.train_samples() == 8
    heights, weights = task.batch(np.arange(8), CPU)
    assert weights[:, 0].tolist() == [41, 42, 43, 44, 46, 47, 48, 49]
    centimetres = heights[:, 0].double() * linreg.DEVIATION_CM + linreg.MEAN_CM
    assert centimetres.tolist() == pytest.approx([140, 142, 144, 146, 150, 152, 154, 156])
    held_out = task.model(0)
    with torch.no_grad():
        held_out.weight.zero_()
        held_out.bias.zero_()
    assert task.evaluate(held_out, CPU) == {"loss": pytest.approx((45**2 + 50**2) / 2)}


def test_a_share_of_fewer_than_five_has_nothing_to_evaluate_with(of_files):
    task, files = of_files
    assert task.evaluate(task.model(0), CPU) == {}
    files[0].write_text(HEADER + "150;40;30;1\n" * 4)
    assert task.read_files(files[:1]) == 4
    assert task.evaluate(task.model(0), CPU) == {}


def test_a_file_with_children_alone_is_refused(of_files):
    task, files = of_files
    files[0].write_text(HEADER + "100;15;5;0\n")
    with pytest.raises(DataError, match=r"part-0\.csv: no samples to train on in there$"):
        task.read_files(files[:1])


@pytest.mark.data
def test_the_heights_are_standardised_as_those_of_the_published_file(published):
    task = LinearRegression(published("height-weight"))
    assert (task.mean_cm, task.deviation_cm) == pytest.approx((linreg.MEAN_CM, linreg.DEVIATION_CM), abs=5e-5)
