import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from leeway.ps.storage.safetensors_format import Entry, entries, write


def joined(buffers):
    return b"".join(bytes(buffer) for buffer in buffers)


def test_the_library_reads_what_is_written(layout, body, tensors, same):
    same(safetensors.torch.load(joined(write(entries(layout, body)))), tensors)


def test_metadata_and_prefixes(layout, body, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(joined(write(entries(layout, body, "model/"), {"who": "me"})))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"who": "me"}
        assert all(name.startswith("model/") for name in file.keys())  # noqa: SIM118


def test_values_are_views_and_the_head_is_small(layout, body):
    head, *views = write(entries(layout, body))
    assert len(head) % 8 == 0
    assert all(view.obj is body.obj for view in views)


def test_every_tensor_is_aligned_to_its_items(layout, body):
    head = write(entries(layout, body))[0]
    for name, entry in json.loads(head[8:]).items():
        begin, _ = entry["data_offsets"]
        place = layout.places[name]
        assert (len(head) + begin) % max(place.spec.nbytes // max(place.spec.elements, 1), 1) == 0


def test_an_empty_file():
    assert safetensors.torch.load(joined(write([]))) == {}


@pytest.mark.parametrize("names", [["__metadata__"], ["a", "a"]])
def test_names_that_cannot_be(names):
    with pytest.raises(ValueError, match=f"called '{names[-1]}'"):
        write([Entry(name, "uint8", (1,), memoryview(b"x")) for name in names])


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), st.integers(0, 9), max_size=9))
def test_any_names_and_sizes(sizes):
    tensors = {name: torch.arange(size, dtype=torch.int16) for name, size in sizes.items()}
    written = write(Entry(name, "int16", (size,), memoryview(tensors[name].numpy())) for name, size in sizes.items())
    found = safetensors.torch.load(joined(written))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }
