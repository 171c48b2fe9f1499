import io

import numpy as np
import pytest
import safetensors.torch

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.ps.storage import downloads


def joined(buffers):
    return b"".join(bytes(buffer) for buffer in buffers)


def test_all_tensors_as_safetensors(layout, body, tensors, same, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(joined(downloads.safetensors(layout, body.toreadonly())))
    same(safetensors.torch.load_file(path), tensors)


def test_some_tensors_as_safetensors(layout, body, tensors, same):
    names = ["flags", "net.weight", "flags"]
    found = safetensors.torch.load(joined(downloads.safetensors(layout, body, names)))
    same(found, {name: tensors[name] for name in names})
    with pytest.raises(ValueError, match="no tensor is called 'nobody'"):
        downloads.safetensors(layout, body, ["nobody"])


def test_each_tensor_as_npy(layout, body, tensors):
    for name, place in layout.places.items():
        if name == "brain":
            continue
        written = joined(downloads.npy(place, body.toreadonly()))
        found = np.load(io.BytesIO(written), allow_pickle=False)
        expected = tensors[name].numpy()
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        assert np.array_equal(found, expected), name
        assert (len(written) - expected.nbytes) % 64 == 0


def test_bfloat16_as_npy_is_refused_with_what_to_ask_for(layout, body):
    with pytest.raises(WireError, match=r"tensor 'brain' is bfloat16.*ask for application/vnd.safetensors") as raised:
        downloads.npy(layout.places["brain"], body)
    assert raised.value.code is Code.NOT_ACCEPTABLE
