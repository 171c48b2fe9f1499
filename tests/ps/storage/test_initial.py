import os
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.storage import downloads
from leeway.ps.storage.initial import load_initial


def test_a_file_becomes_a_frame_to_offer(tensors, same, tmp_path):
    path = tmp_path / "init.safetensors"
    safetensors.torch.save_file(tensors, path)
    frame = load_initial(path)
    assert frame.matches(Layout.of(frame.specs))
    body = Body(frame.body)
    same({place.spec.name: body.tensor(place) for place in frame.places}, tensors)


def test_kinds_come_from_dtypes_and_names(tmp_path):
    path = tmp_path / "init.safetensors"
    tensors = {name: torch.zeros(2) for name in ("w", "bn.running_mean", "bn.running_var", "running_mean.weight")}
    safetensors.torch.save_file(tensors | {"count": torch.tensor(0)}, path)
    assert {spec.name: spec.kind for spec in load_initial(path).specs} == {
        "w": Kind.TRAINABLE,
        "running_mean.weight": Kind.TRAINABLE,
        "bn.running_mean": Kind.FLOAT_BUFFER,
        "bn.running_var": Kind.FLOAT_BUFFER,
        "count": Kind.INTEGER_BUFFER,
    }


def test_a_batch_norm_model_of_pytorch(tmp_path):
    path = tmp_path / "init.safetensors"
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    safetensors.torch.save_model(model, str(path))
    kinds = {spec.name: spec.kind for spec in load_initial(path).specs}
    assert {name for name, kind in kinds.items() if kind is Kind.TRAINABLE} == {
        name for name, _ in model.named_parameters()
    }
    assert kinds.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "header"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense", "header"),
        (safetensors.torch.save({"w": torch.zeros(8)})[:-1], "must be a safetensors file"),
        (safetensors.torch.save({"c": torch.zeros(2, dtype=torch.complex64)}), "tensor 'c' is complex64; it must be"),
        (safetensors.torch.save({"a\nb": torch.zeros(2)}), "printable"),
        (safetensors.torch.save({}), "there is no tensor in it"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, content, words):
    path = tmp_path / "init.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        load_initial(path)
    text = str(raised.value)
    assert str(path) in text
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    path = tmp_path / "init.safetensors"
    make(path)
    with pytest.raises(ValueError, match=rf"{path}: it is a \w+, where a regular file should be$"):
        load_initial(path)


def test_a_damaged_checkpoint_is_called_what_it_is(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    content = {"model/default/w": torch.zeros(2), "digest": torch.zeros(32, dtype=torch.uint8)}
    safetensors.torch.save_file(content, path, {"leeway": '{"groups": {"default": {"kinds": {"w": "trainable"}}}}'})
    with pytest.raises(
        ValueError, match=r"this checkpoint is not what was written.*; give another one, or a copy of it$"
    ):
        load_initial(path)


@pytest.mark.parametrize("key", ["leeway", "leeway-kinds"])
def test_kinds_that_are_nested_too_deep(tmp_path, key):
    path = tmp_path / "init.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, {key: "[" * 100_000})
    with pytest.raises(ValueError, match="nested too deep"):
        load_initial(path)


def test_a_file_that_says_its_kinds_is_believed(layout, body, tmp_path, same, tensors):
    path = tmp_path / "download.safetensors"
    path.write_bytes(b"".join(bytes(part) for part in downloads.safetensors(layout, body.toreadonly())))
    frame = load_initial(path)
    assert frame.matches(layout)
    assert bytes(frame.body) == bytes(body)
    (place,) = layout.restrict(["net.weight"]).places.values()
    other = Layout.of([replace(place.spec, kind=Kind.FLOAT_BUFFER)])
    path.write_bytes(b"".join(bytes(part) for part in downloads.safetensors(other, memoryview(bytes(other.nbytes)))))
    assert load_initial(path).specs == (replace(place.spec, kind=Kind.FLOAT_BUFFER),)


@pytest.mark.parametrize("kinds", ["nonsense", "[]", '{"w": "integer-buffer"}', '{"w": "no kind"}'])
def test_kinds_that_are_none_are_one_line(tmp_path, kinds):
    path = tmp_path / "init.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, {"leeway-kinds": kinds})
    with pytest.raises(ValueError, match="cannot read initial values"):
        load_initial(path)
