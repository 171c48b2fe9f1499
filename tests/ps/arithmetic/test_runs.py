import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.runs import Chart, overlay, split

MODEL = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "b.weight": torch.arange(20.0).view(4, 5),
    "c.weight": torch.arange(2.0).view(1, 2),
    "empty": torch.empty(0, 3),
    "a.bias": torch.arange(3.0),
    "b.bias": torch.tensor(5.0),
    "half": torch.arange(40.0).half().view(2, 20),
    "bn.running_mean": torch.arange(17.0),
    "bn.running_var": torch.ones(17),
    "bn.count": torch.tensor(3),
    "flags": torch.tensor([True, False]),
}


@pytest.fixture
def chart(frame):
    return Chart(Layout.of(frame(MODEL).specs))


def tensors(runs):
    return {place.spec.name: tensor for run in runs for place, tensor in run.tensors()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_full_update_is_one_run_per_span(chart, frame):
    runs = chart.runs([frame(MODEL)])
    assert [(run.first, run.stop) for run in runs] == [(0, len(span.places)) for span in chart.layout.spans]
    assert_same(tensors(runs), MODEL)


@settings(deadline=None)
@given(st.data())
def test_any_part_in_any_order_and_any_number_of_frames(frame, data):
    chart = Chart(Layout.of(frame(MODEL).specs))
    names = data.draw(st.lists(st.sampled_from(list(MODEL)), unique=True))
    cut = data.draw(st.integers(0, len(names)))
    as_given = data.draw(st.booleans())
    parts = [{name: MODEL[name] for name in part} for part in (names[:cut], names[cut:])]
    runs = chart.runs([frame(part, as_given=as_given) for part in parts])
    assert_same(tensors(runs), {name: MODEL[name] for name in names})
    starts = [(run.span.offset_bytes, run.first) for run in runs]
    assert starts == sorted(starts)
    for run in runs:
        assert run.values.nbytes == run.end_bytes - run.start_bytes


def test_a_run_finds_its_tensors_in_the_groups_body(chart, frame):
    whole = frame(MODEL)
    body = Body(whole.body)
    for run in chart.runs([frame({name: MODEL[name] for name in ("b.weight", "c.weight", "bn.running_var")})]):
        assert torch.equal(run.within(body), run.values)


def test_missing_neighbours_cut_a_run(chart, frame):
    runs = chart.runs([frame({"a.weight": MODEL["a.weight"], "c.weight": MODEL["c.weight"]})])
    assert [(run.first, run.stop) for run in runs] == [(0, 1), (2, 3)]


@settings(deadline=None)
@given(st.data())
def test_overlay_lists_who_sent_what(frame, data):
    chart = Chart(Layout.of(frame(MODEL).specs))
    sent = [data.draw(st.lists(st.sampled_from(list(MODEL)), unique=True)) for _ in range(3)]
    contributions = [chart.runs([frame({name: MODEL[name] for name in names})]) for names in sent]
    found: dict[str, list[int]] = {}
    for pieces in overlay(contributions):
        assert [index for index, _ in pieces] == sorted(index for index, _ in pieces)
        assert len({(run.span.offset_bytes, run.first, run.stop) for _, run in pieces}) == 1
        for index, run in pieces:
            whole = tensors(contributions[index])
            for place, tensor in run.tensors():
                found.setdefault(place.spec.name, []).append(index)
                assert torch.equal(tensor, whole[place.spec.name])
    assert found == {
        name: [index for index, names in enumerate(sent) if name in names]
        for name in MODEL
        if any(name in names for names in sent)
    }


def test_equal_contributions_are_laid_over_each_other_span_by_span(chart, frame):
    contributions = [chart.runs([frame(MODEL)]) for _ in range(3)]
    assert [len(pieces) for pieces in overlay(contributions)] == [3] * len(chart.layout.spans)


@given(st.data())
def test_split_by_name(frame, data):
    chart = Chart(Layout.of(frame(MODEL).specs))
    sent = data.draw(st.lists(st.sampled_from(list(MODEL)), unique=True))
    named = data.draw(st.sets(st.sampled_from(list(MODEL))))
    others, those = split(chart.runs([frame({name: MODEL[name] for name in sent})]), named)
    assert_same(tensors(others), {name: MODEL[name] for name in sent if name not in named})
    assert_same(tensors(those), {name: MODEL[name] for name in sent if name in named})
    for run in (*others, *those):
        assert run.values.nbytes == run.end_bytes - run.start_bytes
