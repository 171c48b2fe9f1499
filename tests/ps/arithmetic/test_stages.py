"""Stages with a state of their own, written as somebody would who adds one: their state is carried and saved."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from leeway.protocol.pushes import UpdateKind
from leeway.ps.arithmetic.aggregation.mean import Mean
from leeway.ps.arithmetic.aggregation.rule import Rule
from leeway.ps.arithmetic.parameters import Parameters, Update
from leeway.ps.arithmetic.runs import Run
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.arithmetic.stages import Stage, run
from leeway.ps.arithmetic.transforms import Clip, Measure, Scale
from leeway.ps.arithmetic.updates import Contribution, Updates
from leeway.ps.storage.checkpoints import Checkpoint, Checkpoints, read
from leeway.transport.memory.pool import Pool

POINTS = [[0, 0], [1, 0], [0, 1], [1, 1], [10, 10]]


@dataclass(frozen=True, slots=True)
class CentredClipping(Rule):
    """v <- v + mean((x_i - v) min(1, tau / |x_i - v|)), v carried from round to round (Karimireddy et al. 2021, arXiv
    2012.10333, section 4).

    v is one more update: how far it is from the others and what is added to it, `Updates` can tell.
    """

    name: ClassVar[str] = "centred-clipping"

    tau: float = 2.0

    def apply(self, state, updates):
        count = len(updates.contributions)
        all_of_them = Updates([*updates.contributions, Contribution(0, remembered(state, updates))], updates.scratch)
        apart = all_of_them.distances()[count, :count].sqrt().tolist()
        weights = [min(1.0, self.tau / max(distance, 1e-30)) / count for distance in apart]
        found = all_of_them.total([*weights, 1.0 - sum(weights)])
        return found, {p.spec.name: tensor.clone() for one in found.gradient for p, tensor in one.tensors()}


def remembered(state, updates):
    """The runs of what is remembered, of all tensors in these updates; what is not remembered is a zero."""
    parts = {}
    for one in (one for contribution in updates.contributions for one in contribution.runs):
        for index in range(one.first, one.stop):
            part = one.part(index, index + 1)
            values = torch.zeros_like(part.values)
            tensor = state.get(part.places[0].spec.name, torch.zeros(()))
            values[: part.places[0].spec.elements] = tensor.flatten()
            parts[one.span.offset_bytes, index] = Run(one.span, index, index + 1, values)
    return [parts[key] for key in sorted(parts)]


@dataclass(frozen=True, slots=True)
class Trusted(Rule):
    """The mean of those whom it has not dropped: the rank that is furthest from all others is dropped for good."""

    name: ClassVar[str] = "trusted"

    def apply(self, state, updates):
        far = updates.distances().sum(dim=1)
        worst = updates.contributions[int(far.argmax())].rank
        state = {**state, worst: torch.tensor(True)}
        chosen = [0.0 if one.rank in state else 1.0 for one in updates.contributions]
        return updates.total([weight / sum(chosen) for weight in chosen]), state


@dataclass(frozen=True, slots=True)
class Counting(Stage):
    """Before the rule: every update is divided by the number of steps."""

    name: ClassVar[str] = "counting"

    def init(self):
        return {"steps": torch.tensor(0)}

    def apply(self, state, updates):
        steps = state["steps"] + 1
        return updates.scaled([1.0 / steps.item()] * len(updates.contributions)), {"steps": steps}


@pytest.fixture(scope="session")
def group(frame):
    def build(rule, start=None, **fields):
        parameters = Parameters(OptimizerSettings.read({"lr": 1.0, **fields}), Pool(), rule=rule)
        offered = frame({"w": torch.zeros(2), "v": torch.zeros(3, 5)} | (start or {}))
        parameters.versions.publish(parameters.offer(1, offered, {spec.name for spec in offered.specs}))
        return parameters

    return build


@pytest.fixture(scope="session")
def round_of(frame):
    def step(parameters, *tensors):
        sent = [
            Update(UpdateKind.GRADIENT, 1, (frame(one),), rank=f"w{place}")
            for place, one in enumerate(tensors)
            if one is not None
        ]
        made = parameters.step(parameters.versions.current.number + 1, sent, aggregated=True)
        parameters.versions.publish(made.snapshot)
        return made

    return step


def points():
    return [{"w": torch.tensor(point, dtype=torch.float32)} for point in POINTS]


def test_the_state_goes_on_from_step_to_step(group, round_of, values):
    parameters = group(CentredClipping())
    round_of(parameters, *points())
    torch.testing.assert_close(values(parameters.versions.current)["w"], torch.full((2,), -0.68284), rtol=0, atol=5e-6)
    centre = torch.full((2,), 0.68284)
    for _ in range(3):
        sent = points()
        before = values(parameters.versions.current)["w"]
        round_of(parameters, *sent)
        moves = [one["w"] - centre for one in sent]
        centre = centre + sum(move * min(1.0, 2.0 / move.norm().item()) for move in moves) / 5
        found = before - values(parameters.versions.current)["w"]
        torch.testing.assert_close(found, centre, rtol=1e-4, atol=1e-5)


def test_a_rule_sees_whose_each_update_is(group, round_of, values):
    parameters = group(Trusted())
    good, bad = {"w": torch.ones(2)}, {"w": torch.full((2,), 9.0)}
    round_of(parameters, good, bad, good)
    assert set(parameters.save().states["trusted"]) == {"w1"}
    round_of(parameters, None, good, good, {"w": torch.full((2,), 50.0)})
    assert set(parameters.save().states["trusted"]) == {"w1", "w3"}
    assert torch.equal(values(parameters.versions.current)["w"], torch.full((2,), -2.0))


def test_it_is_saved_and_goes_on_from_the_file_bit_by_bit(tmp_path, group, round_of):
    one = group(CentredClipping(), {"half": torch.zeros(4).half()})
    sent = [{"w": torch.randn(2), "v": torch.randn(3, 5), "half": torch.randn(4).half()} for _ in range(3)]
    round_of(one, *sent)
    path = Checkpoints(tmp_path).write(Checkpoint({}, {"default": one.save()}), 2)
    twos = [Parameters(OptimizerSettings(lr=1.0), Pool(), rule=rule) for rule in (CentredClipping(), Mean())]
    for two in twos:
        two.versions.publish(two.restore(read(path).groups["default"]))
    path.unlink()
    for parameters in (one, *twos):
        round_of(parameters, *sent)
    assert bytes(one.versions.current.body) == bytes(twos[0].versions.current.body)
    assert one.save().states["centred-clipping"].keys() == {"w", "v", "half"}
    assert not twos[1].save().states, "what another rule has saved is of no use to this one"


def test_a_step_that_fails_leaves_the_state_as_it_was(monkeypatch, group, round_of):
    parameters = group(CentredClipping())
    round_of(parameters, *points())
    before = parameters.save().states
    copies = {name: tensor.clone() for name, tensor in before["centred-clipping"].items()}
    with monkeypatch.context() as patched:
        patched.setattr(parameters._optimizer, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            round_of(parameters, *points())
    after = parameters.save().states
    assert after is before
    assert all(torch.equal(after["centred-clipping"][name], tensor) for name, tensor in copies.items())


def test_without_state_nothing_is_saved(tmp_path, group, round_of):
    parameters = group(Mean(), clip_norm=0.5)
    round_of(parameters, *points())
    path = Checkpoints(tmp_path).write(Checkpoint({}, {"default": parameters.save()}), 2)
    assert b'"stage/' not in path.read_bytes()
    assert read(path).groups["default"].states == {}


def test_a_file_of_before_there_were_stages_is_read(tmp_path, group, round_of):
    parameters = group(CentredClipping())
    round_of(parameters, *points())
    saved = parameters.save()
    two = Parameters(OptimizerSettings(lr=1.0), Pool(), rule=CentredClipping())
    two.restore(type(saved)(saved.number, saved.layout, saved.body, {}, saved.optimizer))
    assert not two.save().states


def test_stages_stand_one_after_the_other(group, frame):
    """Scaled first, aggregated, then clipped; each with its own state, and those of others are left alone."""
    parameters = group(Mean())
    scratch = parameters._scratch()
    runs = [parameters._chart.runs([frame({"w": torch.tensor(point)})]) for point in ([6.0, 8.0], [0.0, 0.0])]
    updates = Updates([Contribution(1, one) for one in runs], scratch)
    states = {"counting": {"steps": torch.tensor(1)}, "other": {"x": torch.tensor(5)}}
    found, after = run([Counting(), Scale(0.5), Mean(), Clip(0.5)], states, updates)
    ((_, tensor),) = found.gradient[0].tensors()
    assert found.norm == pytest.approx(10 / 2 / 2 / 2)
    torch.testing.assert_close(tensor, torch.tensor([0.3, 0.4]))
    assert {name: list(state) for name, state in after.items()} == {"counting": ["steps"], "other": ["x"]}
    assert (after["counting"]["steps"], states["counting"]["steps"]) == (2, 1)
    measured, _ = run([Counting(), Mean(), Measure()], {}, updates)
    assert measured.norm == pytest.approx(5.0)
