import pytest
import torch

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.runs import Chart
from leeway.ps.arithmetic.values import Masters, has_master
from tests.ps.arithmetic.computing import values_of

TENSORS = {
    "a.weight": torch.randn(5, 7).half(),
    "b.weight": torch.randn(33, 3).bfloat16(),
    "c.weight": torch.randn(4, 4),
    "a.bias": torch.randn(7).half(),
    "d.bias": torch.randn(40).half(),
    "d.scale": torch.tensor(2.5).half(),
    "void": torch.empty(0, 3).half(),
    "wide": torch.randn(2, 2).double(),
    "x.running_mean": torch.randn(3).half(),
    "n": torch.tensor(3),
}
HALVES = {"a.weight", "b.weight", "a.bias", "d.bias", "d.scale", "void"}


@pytest.fixture
def sent(frame):
    return frame(TENSORS)


def test_trained_halves_have_masters_and_buffers_have_none(sent):
    layout = Layout.of(sent.specs)
    assert {place.spec.name for place in Masters.of(layout).places()} == HALVES
    assert {spec.name for spec in sent.specs if has_master(spec)} == HALVES


def test_without_halves_there_is_no_memory_for_them(frame):
    masters = Masters.of(Layout.of(frame({"w": torch.ones(3, 3), "b.running_mean": torch.ones(3).half()}).specs))
    assert (masters.nbytes, list(masters.places())) == (0, [])


def test_arithmetic_sees_the_master_where_there_is_one(sent):
    layout = Layout.of(sent.specs)
    values = values_of(layout, sent.body)
    for name, place in layout.places.items():
        found = values.tensor(place)
        assert found.dtype is (torch.float32 if name in HALVES else TENSORS[name].dtype)
        assert torch.equal(found.to(TENSORS[name].dtype), TENSORS[name]), name


def test_runs_and_tensors_are_the_same_numbers(frame, sent):
    layout = Layout.of(sent.specs)
    values = values_of(layout, sent.body)
    some = {name: TENSORS[name] for name in ("d.bias", "a.bias", "b.weight", "c.weight", "wide")}
    for run in Chart(layout).runs([frame(some)]):
        flat = values.flat(run)
        assert flat.numel() == run.values.numel()
        begin = values.tensor(run.places[0])
        assert flat.data_ptr() == begin.data_ptr()
        assert all(torch.equal(values.tensor(place), some[place.spec.name].to(flat.dtype)) for place in run.places)


def test_what_is_published_is_the_masters_rounded(sent):
    layout = Layout.of(sent.specs)
    values = values_of(layout, sent.body)
    places = list(Masters.of(layout).places())
    for place in places:
        values.tensor(place).add_(2.0**-14)
    values.round()
    for place in places:
        assert torch.equal(values.body.tensor(place), values.tensor(place).to(TENSORS[place.spec.name].dtype))
    assert torch.equal(values.body.tensor(layout.places["c.weight"]), TENSORS["c.weight"])
    assert bytes(values.body._bytes.numpy()) == bytes(sent.body)
