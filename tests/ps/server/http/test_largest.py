"""The largest group that is taken can be pulled, pushed, joined, saved, loaded, downloaded; one key more is refused."""

import asyncio
import json

import numpy as np
import pytest
import safetensors.numpy

from leeway.protocol import limits
from leeway.protocol.capacity import Capacity
from leeway.protocol.membership import Joined
from leeway.protocol.schema import Sizes
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.storage import checkpoints
from tests.ps.server import rawclient

EMPTY = np.zeros((0,), np.float32)
ONE = np.ones((1,), np.float32)


def largest(name):
    """As many keys with such names as a group may have."""
    total = Sizes()
    for count in range(limits.MAX_TENSORS + 1):
        total += Sizes.of([TensorSpec(name(count), (1,), "float32", Kind.TRAINABLE)])
        if total.excess(Capacity()):
            return count
    raise AssertionError("a group has no limit")


NAMES = {
    "as many as there may be": ("sgd", lambda place: f"{place:x}", EMPTY),
    # Three bytes of a name become six in JSON, and seven in JSON within JSON.
    "with the longest names": ("adam", lambda place: f"{place:06x}" + "\u3042" * (limits.MAX_NAME - 6), ONE),
}


@pytest.mark.parametrize(("optimizer", "name", "values"), NAMES.values(), ids=NAMES)
async def test_the_largest_group_can_be_used(start, tmp_path, optimizer, name, values):
    count = largest(name)
    server = await start(mode="async", optimizer=optimizer, state_dir=tmp_path)
    headers = {"Content-Type": rawclient.FRAME}
    tensors = {name(place): values for place in range(count)}
    await server.offer(tensors)
    one_more = await server.put("/v1/params", rawclient.frame({}, {name(count): values}), headers)
    assert (one_more.status, one_more.json["code"]) == (422, "schema-too-large")
    assert "the limit is" in one_more.json["detail"]

    joined = await server.post("/v1/workers", json.dumps({"rank": "w0", "session": "s"}).encode())
    assert len(joined.body) < limits.MAX_REPLY_JSON_BYTES
    assert len(Joined.read(joined.json).groups["default"].specs) == count
    worker = await server.join("w1")
    frame = (await worker.pull()).frame
    assert len(frame.places) == count
    if optimizer == "adam":
        assert (await worker.push(tensors)).status == 200
    downloaded = await server.get("/v1/params", {"Accept": "application/vnd.safetensors"})
    assert len(safetensors.numpy.load(downloaded.body)) == count
    saved = await server.post("/v1/checkpoints")
    assert saved.status == 201
    checkpoint = await asyncio.to_thread(checkpoints.read, tmp_path / saved.json["checkpoint"])
    assert len(checkpoint.groups["default"].layout) == count


async def test_so_can_a_round_of_many_workers_be_saved(start, tmp_path):
    """What is held in a round is in the checkpoint too, once for each worker: its names do not count again."""
    keys = {f"{place:06x}" + "\u3042" * 500: ONE for place in range(2000)}
    server = await start(mode="sync", workers=9, state_dir=tmp_path)
    await server.offer(keys)
    workers = [await server.join(f"w{place}") for place in range(9)]
    for worker in workers:
        await worker.pull()
    for worker in workers[:-1]:
        assert (await worker.push(keys)).status == 202
    saved = await server.post("/v1/checkpoints")
    path = tmp_path / saved.json["checkpoint"]
    head = int.from_bytes(path.read_bytes()[:8], "little")
    assert head < 3 * Sizes.of(TensorSpec(key, (1,), "float32", Kind.TRAINABLE) for key in keys).header_bytes / 2
    held = (await asyncio.to_thread(checkpoints.read, path)).held
    assert [len(frame.places) for frame in held] == [2000] * 8
