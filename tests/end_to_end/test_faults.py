"""A server among faults of its own and of its disk: what was decided is done, what is said is one line, what is saved
is true.

A fault is put into a real process by a few lines of Python before its `main`; a file in its way turns it on and off.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leeway.errors import SettingError
from leeway.ps.server import lifecycle
from leeway.ps.settings.config import ServerConfig
from leeway.ps.storage import checkpoints
from leeway.ps.storage.checkpoints import Checkpoints
from tests.ps.server import rawclient
from tests.ps.server.test_lifecycle import Process, quiet_environment

ROOT = Path(__file__).parents[2]
MODEL = {"weight": np.ones(300, np.float32)}
NOTHING = {"weight": np.zeros(300, np.float32)}

FAILS_WHILE = """
import pathlib
def failing(owner, name, words):
    whole = getattr(owner, name)
    def broken(*given, **named):
        if pathlib.Path(sys.argv[-1], "fault").exists():
            raise {error}
        return whole(*given, **named)
    setattr(owner, name, broken)
"""


def fault(module, owner, name, error="MemoryError('no more')"):
    """While a file `fault` stands in the folder of the test, this function raises."""
    return (
        FAILS_WHILE.format(error=error) + f"from leeway.ps.{module} import {owner}\nfailing({owner}, {name!r}, 'x')\n"
    )


class Servers:
    def __init__(self, folder):
        self.folder, self.state, self.started = folder, folder / "state", []

    async def start(self, *arguments, before="", stderr=None):
        """`before`: Python that runs in the process first."""
        program = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{before}\n"
            "from leeway.ps.cli import main; main(sys.argv[1:-1])"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, "--port", "0", *map(str, arguments), str(self.folder)),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr or asyncio.subprocess.PIPE,
            env=quiet_environment(),
        )
        self.started.append(process)
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
            address = (await process.stdout.readline()).decode().strip()
        if not address:
            return Process(process, "", 0)
        host, _, port = address.removeprefix("http://").rpartition(":")
        return Process(process, host, int(port))

    async def with_state(self, *arguments, **more):
        return await self.start("--mode", "async", "--state-dir", self.state, *arguments, **more)

    async def refused(self, *, process=False, before=""):
        """The line with which a start that resumes ends. `process`: in one of its own, with its exit code."""
        if not process and not before:
            with pytest.raises(SettingError) as error:
                await lifecycle._Server(ServerConfig(port=0, mode="async", state_dir=self.state, resume=True)).run()
            return str(error.value)
        code, said = await (await self.with_state("--resume", before=before)).ended()
        assert (code, len(said.splitlines())) == (2, 1 if not before else 2), said
        return said.splitlines()[-1]

    @contextlib.contextmanager
    def fault(self):
        (self.folder / "fault").touch()
        yield
        (self.folder / "fault").unlink()


@pytest.fixture
async def servers(tmp_path):
    servers = Servers(tmp_path)
    yield servers
    for process in servers.started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        process._transport.close()


async def trained(server, rank="w0"):
    """A worker after one step of a model of ones at a learning rate of 0.1."""
    await server.offer(MODEL)
    worker = await rawclient.Worker(server, rank).join()
    await worker.step(MODEL)
    return worker


async def stopped(server):
    server.process.send_signal(signal.SIGTERM)
    return await server.ended()


async def weight(server):
    return rawclient.arrays(await server.get("/v1/params", {"Accept": rawclient.FRAME}))["weight"][0]


async def metric(server, name):
    text = (await server.get("/metrics")).body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


class TestFailedSteps:
    STEP = fault("arithmetic.parameters", "Parameters", "step")

    async def test_the_update_is_skipped_the_run_goes_on_and_all_is_saved(self, servers):
        server = await servers.with_state("--momentum", "0.9", "--optimizer", "momentum", before=self.STEP)
        worker = await trained(server)
        with servers.fault():
            for _ in range(3):
                reply = await worker.step(MODEL)
                assert (reply.json["disposition"], reply.json["reason"]) == ("skipped", "step-failed")
        assert await weight(server) == pytest.approx(0.9)
        await worker.step(MODEL)
        assert await weight(server) == pytest.approx(0.9 - 0.1 * 1.9)
        assert await metric(server, "leeway_server_failed_steps_total{") == 3
        code, said = await stopped(server)
        assert code == 0, said
        assert said.count("step failed") <= 2
        again = await servers.with_state("--optimizer", "momentum", "--momentum", "0.9", "--resume")
        status = (await again.get("/v1/status")).json["groups"]["default"]
        assert (status["version"], status["min_clock"]) == (6, 5)
        assert await weight(again) == pytest.approx(0.71)

    async def test_a_round_goes_on_and_tells_its_contributors(self, servers):
        server = await servers.start("--workers", "2", before=self.STEP)
        await server.offer(MODEL)
        workers = [await rawclient.Worker(server, rank).join() for rank in ("w0", "w1")]
        with servers.fault():
            for worker in workers:
                await worker.pull()
            for worker in workers:
                assert (await worker.push(MODEL)).json["disposition"] == "held"
            granted = [(await worker.pull(wait=20)).frame.message for worker in workers]
        assert [(one["round"], one["step_failed"]) for one in granted] == [(1, True)] * 2
        for worker in workers:
            await worker.push(MODEL)
        assert not (await workers[0].pull(wait=20)).frame.message["step_failed"]
        assert await weight(server) == pytest.approx(0.9)

    async def test_a_checkpoint_never_says_that_a_failed_update_was_applied(self, servers):
        """The state is taken while the step is made: it is taken again when that fails."""
        slow = self.STEP.replace("raise", "import time; time.sleep(0.3); raise")
        server = await servers.with_state(
            before=slow + "import leeway.ps.server.applier as applier; applier.INLINE_BYTES = 0"
        )
        worker = await trained(server)
        await worker.pull()
        with servers.fault():
            body = worker.push_body(MODEL)
            pushing = asyncio.create_task(server.push(body))
            await reached(server, lambda status: status["workers"][0]["groups"]["default"]["state"] == "idle")
            assert (await server.post("/v1/checkpoints")).status == 201
            assert (await pushing).json["reason"] == "step-failed"
        server.process.kill()
        await server.ended()
        again = await servers.with_state("--resume")
        await worker_again(worker, again)
        told = (await again.push(worker.push_body(MODEL))).json
        assert (told["disposition"], told["reason"]) == ("skipped", "step-failed")


async def reached(server, condition):
    async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
        while not condition((await server.get("/v1/status")).json):  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.01)


async def worker_again(worker, server):
    """The same process meets the server again; its last push is still its last one."""
    clock, worker.server = worker.clock, server
    await worker.join()
    worker.clock = clock


TELLING = {
    "history on a full disk": (("--history", "/dev/full"), ""),
    "history whose file is closed": (
        ("--history", "history.jsonl"),
        fault("watching.history", "History", "flush", "ValueError('I/O operation on closed file')"),
    ),
    "metrics, feed, decision log, saving": (
        ("--checkpoint-every", "1"),
        fault("watching.metrics", "ServerMetrics", "stepped", "KeyError('group')")
        + fault("watching.metrics", "ServerMetrics", "answered", "KeyError('route')")
        + fault("watching.feed", "Feed", "tick", "RuntimeError('no loop')")
        + fault("watching.decision_log", "DecisionLog", "add", "OverflowError('time')")
        + fault("server.saving", "Saving", "_took", "KeyError('version')"),
    ),
    "observer": ((), fault("watching.observer", "Observer", "took", "AssertionError('a fault')")),
}


class TestTelling:
    @pytest.mark.parametrize("broken", TELLING)
    async def test_whoever_cannot_be_told_the_run_is_not_touched(self, servers, broken):
        arguments, before = TELLING[broken]
        arguments = [servers.folder / one if one == "history.jsonl" else one for one in arguments]
        with servers.fault():
            server = await servers.with_state(*arguments, before=before)
            worker = await trained(server)
            for _ in range(3):
                assert (await worker.step(MODEL)).json["disposition"] == "applied"
            await reached(server, lambda status: status["uptime_seconds"] > 0.3)
            assert await weight(server) == pytest.approx(0.6)
            assert await metric(server, "leeway_server_listener_failures_total{") >= 1
            code, said = await stopped(server)
        assert code == 0, said
        lines = [json.loads(line) for line in said.splitlines() if '"telling failed"' in line]
        times = [line["times"] for line in lines]
        assert times, said
        assert len({(line["listener"], line["times"]) for line in lines}) == len(lines), said
        assert all(number.bit_count() == 1 for number in times), said
        path = Checkpoints(servers.state).latest()
        group = checkpoints.read(path).core["groups"]["default"]
        assert (group["version"], group["min_clock"]) == (5, 4)
        assert json.loads((servers.state / "epoch.json").read_bytes())["clean"]

    async def test_a_history_that_broke_stays_off_and_what_is_there_can_be_read(self, servers):
        small = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))"
        history = servers.folder / "history.jsonl"
        server = await servers.start("--mode", "async", "--history", history, before=small)
        worker = await trained(server)
        for _ in range(20):
            await worker.step(NOTHING)
        await reached(server, lambda status: status["uptime_seconds"] > 0.3)
        assert await metric(server, 'leeway_server_listener_failures_total{listener="history"}') == 1
        code, said = await stopped(server)
        assert code == 0, said
        assert said.count("telling failed") == 1
        for line in history.read_text().splitlines():
            json.loads(line)

    @pytest.mark.parametrize("stderr", ["closed", "nobody reads"])
    async def test_a_log_that_nobody_can_write_to(self, servers, stderr):
        before = "import os; os.close(2)" if stderr == "closed" else ""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            server = await servers.with_state(before=before, stderr=subprocess.DEVNULL if before else writing)
        finally:
            os.close(writing)
        worker = await trained(server)
        await worker.step(MODEL)
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
            assert await server.process.wait() == 0
        # Nothing of it went into a file that had got the number of the closed stream.
        assert (servers.state / "lock").read_text() == f"{server.process.pid}\n"


class TestFaultsOfOurOwn:
    async def test_a_ticker_that_dies_ends_the_server_in_order(self, servers):
        server = await servers.with_state(before=fault("server.runtime", "Runtime", "tick", "KeyError('w0')"))
        worker = await trained(server)
        parked = asyncio.create_task(server.get("/v1/params?min_version=9", {"Prefer": "wait=60"}))
        await reached(server, lambda status: status["groups"]["default"]["readers_waiting"] == 1)
        with servers.fault():
            code, said = await server.ended()
            (await parked).refused(503, "stopping")
        assert code == 1, said
        assert "the task 'ticker': KeyError: 'w0'" in said
        again = await servers.with_state("--resume")
        assert await weight(again) == pytest.approx(0.9)
        assert (await again.get("/v1/status")).json["epoch"] == worker.epoch

    @pytest.mark.parametrize("name", ["step", "_do"])
    async def test_between_deciding_and_doing_nothing_is_saved_that_was_never_made(self, servers, name):
        module, owner = ("core.machine", "Machine") if name == "step" else ("server.runtime", "Runtime")
        server = await servers.with_state(before=fault(module, owner, name, "AssertionError('a fault')"))
        worker = await trained(server)
        (await server.post("/v1/checkpoints"))
        await worker.pull()
        with servers.fault():
            (await worker.push(MODEL)).refused(503, "stopping")
            code, said = await server.ended()
        assert code == 1, said
        assert len(Checkpoints(servers.state).paths()) == 1
        again = await servers.with_state("--resume")
        assert await weight(again) == pytest.approx(0.9)
        assert (await again.get("/v1/status")).json["epoch"] > worker.epoch


class TestDamage:
    async def test_a_damaged_checkpoint_is_refused_with_the_newest_sound_one(self, servers):
        server = await servers.with_state()
        worker = await trained(server)
        await server.post("/v1/checkpoints")
        await worker.step(MODEL)
        code, said = await stopped(server)
        assert code == 0, said
        older, newer = Checkpoints(servers.state).paths()
        whole = newer.read_bytes()
        files = {path.name: path.read_bytes() for path in servers.state.iterdir() if path.name != "lock"}
        for damaged in (whole.replace(b'min_clock\\": 2', b'min_clock\\": 3'), whole[:-100] + b"\xff" + whole[-99:]):
            assert damaged != whole
            newer.write_bytes(damaged)
            line = await servers.refused(process=b"min_clock" in damaged)
            assert str(newer) in line
            assert f"{older.name}, the newest sound one" in line
            newer.write_bytes(whole)
            # Nothing was written: not over it, and no epoch was begun.
            assert {path.name: path.read_bytes() for path in servers.state.iterdir() if path.name != "lock"} == files
        newer.unlink()
        again = await servers.with_state("--resume")
        assert await weight(again) == pytest.approx(0.9)

    async def test_a_damaged_mark_of_the_clean_stop(self, servers):
        server = await servers.with_state()
        await trained(server)
        await stopped(server)
        epoch = servers.state / "epoch.json"
        whole = epoch.read_bytes()
        changed = (whole.replace(b"true", b"false"), whole.replace(b": 1", b": 2", 1), whole[:20], b"")
        for damaged in (*changed, b"[" * 100_000, b'{"epoch": ' * 100_000):
            assert damaged != whole
            epoch.write_bytes(damaged)
            line = await servers.refused()
            assert f"unreadable {epoch}" in line
            assert epoch.read_bytes() == damaged

    async def test_an_older_state_under_the_name_of_the_newest_begins_a_new_epoch(self, servers):
        server = await servers.with_state()
        worker = await trained(server)
        await server.post("/v1/checkpoints")
        await worker.step(MODEL)
        await stopped(server)
        older, newer = Checkpoints(servers.state).paths()
        shutil.copy(older, newer)
        again = await servers.with_state("--resume")
        assert await weight(again) == pytest.approx(0.9), "the older state"
        assert (await again.get("/v1/status")).json["epoch"] > worker.epoch
        code, said = await stopped(again)
        assert code == 0
        assert "the last server did not stop cleanly with exactly this checkpoint" in said

    async def test_after_a_crash_the_log_says_what_may_be_gone(self, servers):
        server = await servers.with_state()
        worker = await trained(server)
        await server.post("/v1/checkpoints")
        await worker.step(MODEL)
        server.process.kill()
        await server.ended()
        again = await servers.with_state("--resume")
        _, said = await stopped(again)
        (line,) = [json.loads(line) for line in said.splitlines() if "a new epoch" in line]
        assert "has the versions up to default 2; those from default 3 on may be gone" in line["detail"]


class TestDescriptors:
    async def test_connections_that_ask_for_nothing_shut_nobody_out(self, servers):
        few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))"
        server = await servers.with_state(before=few)
        worker = await trained(server)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(250):
                await stack.enter_async_context(server.connect())
            assert (await server.get("/livez")).status == 200
            await worker.step(MODEL)
            await trained(server, "w1")
            assert (await server.post("/v1/checkpoints")).status == 201
            assert await metric(server, "leeway_server_connections_closed_total") > 100
        code, said = await stopped(server)
        assert code == 0
        lines = [json.loads(line) for line in said.splitlines() if "as many connections as there can be" in line]
        assert [line["times"] for line in lines] == [2**number for number in range(len(lines))]
        assert 1 <= len(lines) < 10


class TestStorage:
    SMALL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"

    async def test_no_room_for_checkpoints(self, servers):
        server = await servers.with_state("--checkpoint-every", "1", before=self.SMALL)
        worker = await trained(server)
        (await server.post("/v1/checkpoints")).refused(507, "storage-failed", "File too large")
        assert (await worker.step(MODEL)).json["disposition"] == "applied"
        assert await metric(server, 'leeway_server_checkpoints_total{outcome="failed"}') >= 1
        code, said = await stopped(server)
        assert (code, "Traceback" in said) == (1, False), said

    async def test_no_room_for_the_epoch(self, servers):
        no_room = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
        line = await servers.refused(before=no_room)
        assert "epoch.json" in line
        assert "File too large" in line

    async def test_the_folder_is_removed_while_it_runs(self, servers):
        server = await servers.with_state()
        worker = await trained(server)
        shutil.rmtree(servers.state)
        (await server.post("/v1/checkpoints")).refused(507, "storage-failed", "No such file")
        (await server.get("/v1/checkpoints")).refused(507, "storage-failed", "No such file")
        assert (await worker.step(MODEL)).json["disposition"] == "applied"
        code, said = await stopped(server)
        assert (code, "Traceback" in said) == (1, False), said

    async def test_a_stop_that_cannot_be_marked(self, servers):
        server = await servers.with_state()
        await trained(server)
        (servers.state / "epoch.json").unlink()
        (servers.state / "epoch.json" / "inside").mkdir(parents=True)
        code, said = await stopped(server)
        assert (code, "Traceback" in said) == (1, False), said
        assert "could not be marked as clean" in said

    @pytest.mark.parametrize("name", ["epoch.json", "lock", "checkpoint-000000000009.safetensors"])
    async def test_pipes_where_files_should_be(self, servers, name):
        servers.state.mkdir()
        os.mkfifo(servers.state / name)
        assert "it is a pipe, where a regular file should be" in await servers.refused()

    @pytest.mark.parametrize("flag", ["--init", "--history", "--config"])
    async def test_a_pipe_in_place_of_a_file_is_not_waited_for(self, servers, flag):
        path = servers.folder / "pipe"
        os.mkfifo(path)
        server = await servers.start(flag, path)
        code, said = await server.ended()
        assert (code, said.count("\n")) == (2, 1), said
        assert "it is a pipe, where a regular file should be" in said

    @pytest.mark.parametrize("name", ["epoch.json", "lock", "checkpoint-000000000009.safetensors", "x.partial"])
    async def test_folders_where_files_should_be(self, servers, name):
        (servers.state / name / "inside").mkdir(parents=True)
        assert "s a directory" in await servers.refused()
