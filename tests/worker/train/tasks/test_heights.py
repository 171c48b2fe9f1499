"""The task, and the numbers of `docs/tutorial/worked-example.md` computed once more, in whole numbers and fractions."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from leeway.worker.train.data import heights
from leeway.worker.train.tasks.heights import Heights

CPU = torch.device("cpu")
PAGE = Path(__file__).parents[4] / "docs" / "tutorial" / "worked-example.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
HAND_OUTPUT, SYNC, ASYNC, HALF_RATE = [text for language, text in BLOCKS if not language]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Heights(tmp_path_factory.mktemp("empty"))


def test_the_people_are_a_hundred_in_whole_centimetres_and_kilograms(task):
    people = task.people
    assert people.height.shape == people.weight.shape == (100,)
    assert (np.round(people.height * 10) == people.height * 10).all()
    assert (np.round(people.weight) == people.weight).all()
    assert people.height[:5].tolist() == [0.9, 0.1, 0.0, -0.1, 0.1]
    assert people.weight[:5].tolist() == [82, 70, 63, 73, 75]


def test_they_lie_about_their_line(task):
    slope, intercept = task.least_squares()
    assert slope == pytest.approx(heights.SLOPE, abs=1)
    assert intercept == pytest.approx(heights.INTERCEPT, abs=1)
    people = task.people
    noise = people.weight - heights.SLOPE * people.height - heights.INTERCEPT
    assert noise.std() == pytest.approx(heights.NOISE_KG, rel=0.2)


def test_the_held_out_are_others(task):
    others = heights.people(crowd=1)
    assert (others.height != task.people.height).any()
    model = task.model(0)
    expected = np.mean((2 * others.height - others.weight) ** 2)
    assert task.evaluate(model, CPU) == {"loss": pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize("seed", [0, 7])
def test_every_model_begins_at_slope_2_and_intercept_0(task, seed):
    before = torch.random.get_rng_state()
    model = task.model(seed)
    assert (model.weight.item(), model.bias.item()) == (2, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gradient_descent_finds_the_best_line(task, training):
    model = task.model(0)
    training(task, learning_rate=0.25, batch_size=100, steps=40, model=model)
    assert (model.weight.item(), model.bias.item()) == pytest.approx(task.least_squares(), rel=1e-5)


# The page.


class ByFractions:
    """The model (a, b) and its gradients, without any rounding."""

    def __init__(self, task):
        tenths = [round(height * 10) for height in task.people.height.tolist()]
        self.people = [
            (Fraction(height, 10), int(weight)) for height, weight in zip(tenths, task.people.weight, strict=True)
        ]

    def gradient(self, model, begin=0, end=100):
        a, b = model
        errors = [(b * height + a - weight, height) for height, weight in self.people[begin:end]]
        return (
            2 * sum(error for error, _ in errors) / len(errors),
            2 * sum(error * height for error, height in errors) / len(errors),
        )

    def step(self, model, gradient, rate):
        return tuple(value - rate * slope for value, slope in zip(model, gradient, strict=True))

    def turns(self, rate):
        """Two workers with half of the people each: each steps from a gradient of the model after its last step."""
        server = held_0 = held_1 = BEGIN
        for _ in range(3):
            server = held_0 = self.step(server, self.gradient(held_0, 0, 50), rate)
            yield server
            server = held_1 = self.step(server, self.gradient(held_1, 50, 100), rate)
            yield server


BEGIN = (Fraction(0), Fraction(2))
RATE = Fraction(1, 4)


@pytest.fixture(scope="module")
def exact(task):
    return ByFractions(task)


def rows(text, begin=""):
    """The pairs of numbers in lines that begin so."""
    found = [re.findall(r"-?\d+\.\d{4}\b", line) for line in text.splitlines() if line.startswith(begin)]
    return [tuple(row) for row in found]


def shown(model):
    return tuple(f"{float(value):.4f}" for value in model)


def test_the_gradients_of_parts(exact):
    everybody, first, last = (exact.gradient(BEGIN, *part) for part in ((0, 100), (0, 50), (50, 100)))
    assert tuple((one + other) / 2 for one, other in zip(first, last, strict=True)) == everybody
    most, few = exact.gradient(BEGIN, 0, 70), exact.gradient(BEGIN, 70, 100)
    weighted = tuple((7 * one + 3 * other) / 10 for one, other in zip(most, few, strict=True))
    assert weighted == everybody
    expected = [everybody, first, last, everybody, most, few, weighted]
    assert rows(HAND_OUTPUT)[:7] == [shown(gradient) for gradient in expected]


def test_the_models_of_parts_have_the_model_of_all_as_their_mean(exact):
    first, last = (exact.step(BEGIN, exact.gradient(BEGIN, *part), RATE) for part in ((0, 50), (50, 100)))
    mean = tuple((one + other) / 2 for one, other in zip(first, last, strict=True))
    assert mean == exact.step(BEGIN, exact.gradient(BEGIN), RATE)
    assert rows(HAND_OUTPUT)[7:10] == [shown(first), shown(last), shown(mean)]


def test_three_steps_of_one_process_and_of_two_workers(exact):
    models, model = [], BEGIN
    for _ in range(3):
        model = exact.step(model, exact.gradient(model), RATE)
        models.append(shown(model))
    assert rows(HAND_OUTPUT, "one process") == models
    assert rows(SYNC, "w0") == rows(SYNC, "w1") == models


@pytest.mark.parametrize(("rate", "text"), [(RATE, ASYNC), (RATE / 2, HALF_RATE)])
def test_two_workers_that_take_turns(exact, rate, text):
    assert rows(text) == [shown(model) for model in exact.turns(rate)]
