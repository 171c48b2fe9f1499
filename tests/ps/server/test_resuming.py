"""What a server that goes on from a checkpoint counts from."""

import shutil

from leeway.ps.server import saving
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
