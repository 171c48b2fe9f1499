"""Which optimizer a group has that nobody has chosen: the first update says."""

import shutil

import numpy as np
import pytest

ONES = np.ones(3, np.float32)


async def rate(server):
    return (await server.get("/v1/optimizer")).json["lr"]


async def test_steps_that_a_worker_has_made_are_taken_as_they_are(start):
    server = await start(optimizer_chosen=False)
    await server.offer()
    before = (await server.values())["bias"]
    worker = await server.join("w0")
    assert await rate(server) == 0.1
    await worker.step({"bias": ONES}, kind="delta")
    assert await rate(server) == 1.0
    assert ((await server.values())["bias"] == before - 1).all()


async def test_whole_weights_are_taken_as_they_are(start):
    server = await start(mode="sync", optimizer_chosen=False)
    await server.offer()
    await (await server.join("w0")).step({"bias": ONES * 7}, kind="model")
    assert await rate(server) == 1.0
    assert ((await server.values())["bias"] == 7).all()


@pytest.mark.parametrize("chosen", [True, False])
async def test_gradients_are_stepped_with_by_the_default_rate(start, chosen):
    server = await start(optimizer_chosen=chosen)
    await server.offer()
    worker = await server.join("w0")
    await worker.step({"bias": ONES})
    await worker.step({"bias": ONES}, kind="delta")  # it has been stepped with: nothing is changed under way
    assert await rate(server) == 0.1


@pytest.mark.parametrize("how", ["at the start", "by request"])
async def test_what_somebody_has_chosen_stays(start, how):
    server = await start(optimizer_chosen=how == "at the start", lr=0.25)
    await server.offer()
    if how == "by request":
        await server.put("/v1/optimizer", {"lr": 0.25})
    await (await server.join("w0")).step({"bias": ONES}, kind="delta")
    assert await rate(server) == 0.25


async def test_a_restart_goes_on_with_it(start, tmp_path):
    server = await start(optimizer_chosen=False, state_dir=tmp_path / "state")
    await server.offer()
    await (await server.join("w0")).step({"bias": ONES}, kind="delta")
    await server.post("/v1/checkpoints")
    folder = shutil.copytree(tmp_path / "state", tmp_path / "copy")
    again = await start(optimizer_chosen=False, state_dir=folder, resume=True)
    assert await rate(again) == 1.0
    assert await rate(await start(state_dir=shutil.copytree(folder, tmp_path / "more"), resume=True)) == 0.1
