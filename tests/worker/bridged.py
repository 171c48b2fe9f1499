"""What a bridge sends, as the other side gets it, and what it is served."""

import numpy as np
import torch

from leeway.protocol.decoder import decode
from leeway.protocol.frames import encode
from leeway.protocol.spans import Layout
from leeway.transport.channel import Tensors as WireTensors


def received(tensors):
    """The frame that the other side gets."""
    body = b"".join(bytes(memoryview(buffer)) for buffer in tensors.buffers)
    return decode(b"".join(bytes(part) for part in encode({}, tensors.layout, [body])))


def tensor_of(frame, name):
    (place,) = [place for place in frame.places if place.spec.name == name]
    dtype = getattr(torch, place.spec.dtype)
    if not place.spec.nbytes:
        return torch.empty(place.spec.shape, dtype=dtype)
    return torch.frombuffer(bytearray(frame.tensor(name)), dtype=dtype).view(place.spec.shape)


def served(bridge, change=lambda name, tensor: tensor + 1):
    """A pulled frame: the model's values, changed."""
    values = received(WireTensors(Layout.of(bridge.specs), bridge.values(Layout.of(bridge.specs))))
    body = np.frombuffer(values.body, np.uint8).copy()
    for place in values.places:
        changed = change(place.spec.name, tensor_of(values, place.spec.name)).contiguous()
        raw = changed.view(torch.uint8) if changed.ndim else changed.view(1).view(torch.uint8)
        body[place.offset_bytes : place.end_bytes] = raw.flatten().numpy()
    return received(WireTensors(Layout.of(bridge.specs), [body]))


def names(tensors):
    return set(tensors.layout.places)
