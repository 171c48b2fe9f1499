from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol import spans
from leeway.protocol.spans import Layout, Place, is_decayed
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec

FLOATING = [name for name, dtype in DTYPES.items() if dtype.floating]
OTHERS = [name for name, dtype in DTYPES.items() if not dtype.floating]

names = st.text("abwZä.0129 ", min_size=1, max_size=8)
shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)
tensors = st.one_of(
    st.builds(TensorSpec, names, shapes, st.sampled_from(FLOATING), st.sampled_from(list(Kind)[:2])),
    st.builds(TensorSpec, names, shapes, st.sampled_from(OTHERS), st.just(Kind.INTEGER_BUFFER)),
)
sets = st.lists(tensors, max_size=24, unique_by=lambda spec: spec.name)

WEIGHT = TensorSpec("fc.weight", (2, 3), "float32", Kind.TRAINABLE)
BIAS = TensorSpec("fc.bias", (2,), "float32", Kind.TRAINABLE)
MEAN = TensorSpec("bn.running_mean", (20,), "float32", Kind.FLOAT_BUFFER)
COUNT = TensorSpec("bn.num_batches_tracked", (), "int64", Kind.INTEGER_BUFFER)


def test_an_example():
    layout = Layout.of([COUNT, BIAS, MEAN, WEIGHT])
    assert [str(place) for place in layout.places.values()] == [
        "fc.weight float32[2,3] @0",
        "fc.bias float32[2] @64",
        "bn.running_mean float32[20] @128",
        "bn.num_batches_tracked int64[] @256",
    ]
    assert [str(span) for span in layout.spans] == [
        "trainable float32 decayed 0..64: 1 tensors",
        "trainable float32 undecayed 64..128: 1 tensors",
        "float-buffer float32 undecayed 128..256: 1 tensors",
        "integer-buffer int64 undecayed 256..320: 1 tensors",
    ]
    assert layout.nbytes == 320
    assert str(layout) == f"4 tensors in 4 spans, 320 bytes, {layout.digest[:12]}"


def test_the_digest_is_of_one_line_a_tensor_in_body_order():
    lines = "fc.weight\tfloat32\ttrainable\t2,3\nfc.bias\tfloat32\ttrainable\t2\n"
    assert Layout.of([BIAS, WEIGHT]).digest == hashlib.sha256(lines.encode()).hexdigest()


def test_no_tensors():
    layout = Layout.of([])
    assert (layout.nbytes, layout.spans, dict(layout.places), len(layout)) == (0, (), {}, 0)


@given(sets.flatmap(lambda specs: st.tuples(st.just(specs), st.permutations(specs))))
def test_the_order_of_the_specs_does_not_matter(both):
    specs, shuffled = both
    first, second = Layout.of(specs), Layout.of(iter(shuffled))
    assert first == second
    assert hash(first) == hash(second)
    assert first.spans == second.spans
    assert list(first.places.items()) == list(second.places.items())


@given(sets)
def test_every_tensor_has_an_aligned_place_of_its_own(specs):
    layout = Layout.of(specs)
    assert {place.spec for place in layout.places.values()} == set(specs)
    end = 0
    for name, place in layout.places.items():
        assert name == place.spec.name
        assert place.offset_bytes % 64 == 0
        assert end <= place.offset_bytes < end + 64
        assert place.end_bytes == place.offset_bytes + place.spec.nbytes
        end = place.end_bytes
    assert end <= layout.nbytes < end + 64
    assert layout.nbytes % 64 == 0


@given(sets)
def test_spans_tile_the_body_and_are_arrays_of_one_dtype(specs):
    layout = Layout.of(specs)
    assert [place for span in layout.spans for place in span.places] == list(layout.places.values())
    end = 0
    for span in layout.spans:
        assert span.offset_bytes == end == span.places[0].offset_bytes
        end = span.end_bytes
        assert span.nbytes % DTYPES[span.dtype].itemsize == 0
        for place in span.places:
            spec = place.spec
            assert (spec.kind, spec.dtype, is_decayed(spec)) == (span.kind, span.dtype, span.decayed)
            assert span.offset_bytes <= place.offset_bytes <= place.end_bytes <= span.end_bytes
    assert end == layout.nbytes


@given(sets)
def test_spans_are_sorted_and_none_could_be_joined(specs):
    def order(span):
        return list(Kind).index(span.kind), span.dtype, not span.decayed

    layout = Layout.of(specs)
    assert all(order(left) < order(right) for left, right in pairwise(layout.spans))
    for span in layout.spans:
        names_in_utf8 = [place.spec.name.encode() for place in span.places]
        assert names_in_utf8 == sorted(names_in_utf8)


def test_a_span_is_one_flat_array():
    specs = [TensorSpec(name, (5, 5), "float32", Kind.TRAINABLE) for name in "ab"]
    layout = Layout.of(specs)
    body = np.zeros(layout.nbytes, np.uint8)
    for value, place in enumerate(layout.places.values(), 1):
        body[place.offset_bytes : place.end_bytes].view(np.float32)[:] = value
    (span,) = layout.spans
    flat = body[span.offset_bytes : span.end_bytes].view(np.float32)
    assert flat.tolist() == [1] * 25 + [0] * 7 + [2] * 25 + [0] * 7


@pytest.mark.parametrize(("shape", "decayed"), [((), False), ((3,), False), ((3, 1), True), ((1, 1, 1), True)])
def test_matrices_and_more_are_decayed(shape, decayed):
    assert is_decayed(TensorSpec("w", shape, "float32", Kind.TRAINABLE)) is decayed


@pytest.mark.parametrize("twin", [BIAS, TensorSpec("fc.bias", (4,), "int8", Kind.INTEGER_BUFFER)])
def test_a_name_twice(twin):
    with pytest.raises(ValueError, match=r"tensor name 'fc\.bias' is there twice"):
        Layout.of([BIAS, WEIGHT, twin])


def test_too_many_tensors(monkeypatch):
    monkeypatch.setattr(spans, "MAX_TENSORS", 1)
    assert len(Layout.of([BIAS])) == 1
    with pytest.raises(ValueError, match="2 tensors; the limit is 1"):
        Layout.of([BIAS, WEIGHT])


def test_contains_and_len():
    layout = Layout.of([BIAS, WEIGHT])
    assert "fc.bias" in layout
    assert "fc.bia" not in layout
    assert len(layout) == 2


def test_layouts_of_other_specs_differ():
    other = TensorSpec("fc.bias", (3,), "float32", Kind.TRAINABLE)
    assert Layout.of([BIAS]) != Layout.of([other])
    assert Layout.of([BIAS]) == Layout.of([BIAS])


def test_places_cannot_be_changed():
    with pytest.raises(TypeError):
        Layout.of([BIAS]).places["x"] = Place(WEIGHT, 0)


@given(sets, st.data())
def test_restrict_is_the_layout_of_the_subset(specs, data):
    chosen = data.draw(st.lists(st.sampled_from(specs)) if specs else st.just([]))
    restricted = Layout.of(specs).restrict(spec.name for spec in chosen)
    assert restricted == Layout.of(set(chosen))


def test_restrict_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="no tensor is called 'other'"):
        Layout.of([BIAS]).restrict(["fc.bias", "other"])


def test_an_excerpt_is_the_layout_of_some_and_where_they_lie():
    specs = {name: TensorSpec(name, (20,), "float32", Kind.TRAINABLE) for name in "abcd"}
    layout = Layout.of(specs.values())
    body = bytearray(layout.nbytes)
    for place in layout.places.values():
        body[place.offset_bytes : place.end_bytes] = place.spec.name.encode() * place.spec.nbytes
    excerpt, stretches = layout.excerpt(["d", "a", "b"])
    assert excerpt == Layout.of(specs[name] for name in "abd")
    assert stretches == [slice(0, 256), slice(384, 512)]
    cut = b"".join(body[stretch] for stretch in stretches)
    for place in excerpt.places.values():
        assert cut[place.offset_bytes : place.end_bytes] == place.spec.name.encode() * place.spec.nbytes
    assert len(cut) == excerpt.nbytes
    with pytest.raises(ValueError, match="no tensor is called 'e'"):
        layout.excerpt(["e"])
