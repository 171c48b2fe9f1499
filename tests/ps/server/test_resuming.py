"""What a server that goes on from a checkpoint counts from."""

import shutil

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.ps.server import saving
from leeway.ps.settings.config import ServerConfig
from tests.ps.server.serving import Clock


async def test_leases_and_graces_begin_when_all_has_been_read(start, gradient, tmp_path, monkeypatch):
    """A large checkpoint takes longer to read than a lease lasts."""
    server = await start(
        mode="sync", workers=3, quorum=2, grace_seconds=5.0, lease_seconds=9.0, state_dir=tmp_path / "state"
    )
    await server.offer()
    workers = [await server.join(rank) for rank in ("w0", "w1", "w2")]
    for worker in workers:
        await worker.pull()
    for worker in workers[:2]:
        await worker.push(gradient)
    await server.post("/v1/checkpoints")
    folder = shutil.copytree(tmp_path / "state", tmp_path / "copy")

    read, late = saving._read, [0.0]

    def slowly(*arguments):
        late[0] = 60.0
        return read(*arguments)

    monkeypatch.setattr(saving, "_read", slowly)
    monkeypatch.setattr(Clock, "__call__", lambda clock: clock.now + late[0])
    again = await start(
        mode="sync", workers=3, quorum=2, grace_seconds=5.0, lease_seconds=9.0, state_dir=folder, resume=True
    )
    again.runtime.tick()
    status = (await again.get("/v1/status")).json
    assert [worker["lease_left_seconds"] for worker in status["workers"]] == [9.0, 9.0, 9.0]
    assert status["groups"]["default"]["round"]["waits_for"] == ["w2"]
    assert again.runtime.machine.next_deadline == again.clock() + 5.0
    assert status["uptime_seconds"] == 0.0


CHANGE = {"momentum": 0.9, "centered": True, "lr_schedule": "linear", "schedule_steps": 9, "min_lr": 0.01}


async def test_a_running_rmsprop_takes_other_settings_and_goes_on_from_its_checkpoint_with_the_same_bits(
    start, gradient, tmp_path
):
    run = {"optimizer": "rmsprop", "alpha": 0.8, "mode": "async"}
    server = await start(**run, state_dir=tmp_path / "state")
    await server.offer()
    worker = await server.join("w0")
    await worker.step(gradient)
    told = (await server.put("/v1/optimizer", CHANGE)).json
    assert {name: told[name] for name in CHANGE} == CHANGE
    assert (told["steps"], told["learning_rate"]) == (1, pytest.approx(0.01 + 0.09 * 8 / 9))
    await worker.step(gradient)
    await server.post("/v1/checkpoints")
    folder = shutil.copytree(tmp_path / "state", tmp_path / "copy")

    given = {**run, **CHANGE}
    again = await start(**given, state_dir=folder, resume=True)
    for served in (server, again):
        await (await served.join("w1")).step(gradient)
        assert (await served.get("/v1/optimizer")).json["steps"] == 3
    expected, found = await server.values(), await again.values()
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }


@pytest.mark.parametrize("resume", [True, False])
async def test_a_new_run_where_another_ones_checkpoints_are_is_told(start, gradient, tmp_path, resume):
    server = await start(mode="async", state_dir=tmp_path / "state")
    await server.offer()
    await (await server.join("w0")).step(gradient)
    await server.post("/v1/checkpoints")
    folder = shutil.copytree(tmp_path / "state", tmp_path / "copy")
    with capture_logs() as lines:
        await start(mode="async", state_dir=folder, resume=resume)
    told = [line["detail"] for line in lines if line["event"] == "this is a new run in the state directory of another"]
    assert len(told) == (0 if resume else 1)
    assert all("--resume would go on from it" in detail for detail in told)


async def test_a_group_with_another_optimizer_than_was_saved_is_named(start, tmp_path):
    state = tmp_path / "state"
    server = await start(mode="async", state_dir=state, named_groups=ServerConfig().with_groups({"G": {}}).named_groups)
    await server.offer({"G/weight": np.zeros(3, np.float32)})
    await server.post("/v1/checkpoints")
    folder = shutil.copytree(state, tmp_path / "copy")
    other = ServerConfig().with_groups({"G": {"optimizer": "adam"}}).named_groups
    with pytest.raises(ValueError, match="group G: the saved state is of optimizer 'sgd', the server runs 'adam'"):
        await start(mode="async", state_dir=folder, named_groups=other, resume=True)
