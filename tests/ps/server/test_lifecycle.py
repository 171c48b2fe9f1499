"""The server as a process: what it prints, what ends it, and with which exit code."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from leeway.errors import SettingError
from leeway.protocol.policy_terms import PolicyTerms
from leeway.ps.server import lifecycle
from leeway.ps.server.lifecycle import machine_settings
from leeway.ps.settings.config import ServerConfig
from tests.ps.server import rawclient
from tests.ps.server.eventstream import watch

ROOT = Path(__file__).parents[3]
PROGRAM = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from leeway.ps.cli import main; main(sys.argv[1:])"


class Process:
    """A `ps-serve` of its own, and requests to it."""

    def __init__(self, process, host, port):
        self.process, self.host, self.port = process, host, port

    def connect(self, *, small=False):
        return rawclient.connect(self.host, self.port, small=small)

    async def request(self, method, target, body=None, headers=None):
        async with self.connect() as connection:
            return await connection.request(method, target, body, headers)

    async def get(self, target, headers=None):
        return await self.request("GET", target, headers=headers)

    async def post(self, target, body=None, headers=None):
        return await self.request("POST", target, body, headers)

    async def push(self, body, *, query="", headers=None):
        return await self.post("/v1/updates" + query, body, {"Content-Type": rawclient.FRAME} | (headers or {}))

    async def offer(self, tensors):
        reply = await self.request("PUT", "/v1/params", rawclient.frame({}, tensors), {"Content-Type": rawclient.FRAME})
        assert reply.status == 200, reply

    async def ended(self):
        """(exit code, what stands on stderr)"""
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
            _, said = await self.process.communicate()
        return self.process.returncode, said.decode()


def quiet_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("PS_")} | {"OMP_NUM_THREADS": "1"}


async def spawn(*arguments):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=quiet_environment(),
    )


@pytest.fixture
async def run():
    """Start processes; whatever is left of them goes with the test."""
    started = []

    async def run(*arguments):
        process = await spawn("--port", "0", *arguments)
        started.append(process)
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
            address = (await process.stdout.readline()).decode().strip()
        assert address.startswith("http://127.0.0.1:"), (address, await process.stderr.read())
        host, _, port = address.removeprefix("http://").rpartition(":")
        return Process(process, host, int(port))

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        process._transport.close()


async def refused(*arguments):
    """The one line with which a start is refused."""
    process = await spawn(*arguments)
    async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
        out, said = await process.communicate()
    process._transport.close()
    assert (process.returncode, out) == (2, b""), said
    lines = said.decode().splitlines()
    assert len(lines) == 1, said.decode()
    assert lines[0].startswith("ps-serve: ")
    assert "Traceback" not in lines[0]
    return lines[0]


class TestStop:
    @pytest.mark.parametrize(
        ("flags", "offered", "saved", "detail"),
        [
            (["--state-dir", "{tmp}/state"], True, True, "the state is saved"),
            (["--state-dir", "{tmp}/state"], False, False, "there was nothing to save"),
            ([], True, False, "nothing is kept: there is no --state-dir"),
            ([], False, False, "there was nothing to save"),
        ],
    )
    async def test_the_last_line_says_what_is_kept(self, run, tmp_path, flags, offered, saved, detail):
        server = await run("--log-format", "json", *(flag.format(tmp=tmp_path) for flag in flags))
        if offered:
            await server.offer({"weight": np.ones(3, np.float32)})
        server.process.send_signal(signal.SIGTERM)
        code, said = await server.ended()
        last = json.loads(said.splitlines()[-1])
        assert (code, last["event"], last["saved"], last["detail"]) == (0, "stopped", saved, detail)

    async def test_parked_requests_are_answered_the_state_is_saved_and_the_code_is_0(self, run, tmp_path):
        server = await run("--mode", "ssp", "--staleness", "0", "--state-dir", tmp_path / "state")
        await server.offer({"weight": np.ones(3, np.float32)})
        worker, _ = await rawclient.Worker(server, "w0").join(), await rawclient.Worker(server, "w1").join()
        await worker.step({"weight": np.ones(3, np.float32)})
        reader = server.get("/v1/params?min_version=9", {"Prefer": "wait=60"})
        parked = [asyncio.create_task(worker.pull(wait=60)), asyncio.create_task(reader)]
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
            while True:
                status = (await server.get("/v1/status")).json
                states = [one["groups"]["default"]["state"] for one in status["workers"]]
                if "waiting" in states and status["groups"]["default"]["readers_waiting"]:
                    break
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):  # they would have waited for a minute
            replies = await asyncio.gather(*parked)
        for reply in replies:
            reply.refused(503, "stopping")
            assert reply.headers["retry-after"] == "1"
        code, said = await server.ended()
        assert code == 0, said
        assert "Traceback" not in said

        # The saved state is gone on from: the same epoch, the version of before.
        again = await run("--mode", "ssp", "--staleness", "0", "--state-dir", tmp_path / "state", "--resume")
        resumed = (await again.get("/v1/status")).json
        assert (resumed["epoch"], resumed["groups"]["default"]["version"]) == (status["epoch"], 2)
        values = rawclient.arrays(await again.get("/v1/params", {"Accept": rawclient.FRAME}))
        assert np.allclose(values["weight"], 0.9)

    async def test_idle_connections_do_not_hold_it_up_and_ctrl_c_is_the_same(self, run):
        server = await run()
        async with server.connect() as idle, server.connect() as half:
            await idle.request("GET", "/livez")
            await half.send(b"POST /v1/workers HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
            server.process.send_signal(signal.SIGINT)
            code, said = await server.ended()
            assert code == 0, said

    async def test_viewers_are_told_so_and_do_not_hold_it_up(self, run):
        server = await run()
        async with watch(server) as stream, watch(server) as silent, watch(server) as gone:
            for one in (stream, silent, gone):
                await one.greeting()
            gone.connection.abort()
            server.process.send_signal(signal.SIGTERM)
            *_, last = await stream.rest()
            assert (last.event, last.data["kind"]) == ("decision", "stopping")
            code, said = await server.ended()
            assert code == 0, said
            assert "Traceback" not in said, said

    async def test_the_end_of_the_run_is_that_of_the_groups_that_were_joined(self, run, tmp_path):
        """Nobody ever joins `default` or `head`; the first to reach its end does not end the others."""
        groups = "".join(f'[group.{name}]\nkeys = ["{name}.*"]\n' for name in ("embedding", "head", "tail"))
        (tmp_path / "leeway.toml").write_text(groups)
        server = await run("--mode", "async", "--until", "2", "--config", tmp_path / "leeway.toml")
        weights = {f"{group}.weight": np.ones(3, np.float32) for group in ("embedding", "head", "tail")}
        await server.offer(weights)
        workers = [await rawclient.Worker(server, group).join(groups=[group]) for group in ("embedding", "tail")]
        for worker in workers:
            group = worker.rank
            for _ in range(2):
                assert not (await server.get("/v1/status")).json["finished"]
                assert (await worker.pull(group=group)).status == 200
                await worker.push({f"{group}.weight": np.ones(3, np.float32)}, group=group)
            (await worker.pull(group=group)).refused(410, "finished")
            await worker.leave()
        code, said = await server.ended()
        assert code == 0, said

    async def test_the_end_of_the_run_and_its_history(self, run, tmp_path):
        server = await run("--mode", "async", "--until", "1", "--history", tmp_path / "history.jsonl")
        await server.offer({"weight": np.ones(3, np.float32)})
        worker = await rawclient.Worker(server, "w0").join()
        await worker.step({"weight": np.ones(3, np.float32)})
        (await worker.pull()).refused(410, "finished")
        await worker.leave()
        code, said = await server.ended()
        assert code == 0, said
        first, *rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
        assert (first["is"], first["epoch"], first["settings"]["until"]) == ("Started", worker.epoch, 1)
        events = [row["event"] for row in rows]
        assert [event.get("message", event)["is"] for event in events][:8] == [
            "Offer",
            "Published",
            "Join",
            "Pull",
            "Push",
            "Published",
            "Pull",
            "Leave",
        ]


class TestKilled:
    async def test_an_etag_of_the_old_epoch_gets_the_whole_body(self, run, tmp_path):
        arguments = ("--mode", "async", "--state-dir", tmp_path / "state")
        server = await run(*arguments)
        await server.offer({"weight": np.ones(3, np.float32)})
        assert (await server.post("/v1/checkpoints")).status == 201
        etag = (await server.get("/v1/params")).headers["etag"]
        assert (await server.get("/v1/params", {"If-None-Match": etag})).status == 304
        server.process.kill()
        await server.ended()
        again = await run(*arguments, "--resume")
        reply = await again.get("/v1/params", {"If-None-Match": etag})
        assert (reply.status, reply.headers["etag"] != etag) == (200, True)


class TestStartedAgain:
    async def test_what_has_not_changed_is_not_saved_again(self, run, tmp_path):
        """Else each restart of a service would push a checkpoint of before out of the folder."""
        state = tmp_path / "state"

        def kept():
            return {path.name: path.read_bytes() for path in state.glob("checkpoint-*")}

        async def stop(server):
            server.process.send_signal(signal.SIGTERM)
            code, said = await server.ended()
            assert (code, json.loads(said.splitlines()[-1])["saved"]) == (0, True)
            return said

        server = await run("--mode", "async", "--state-dir", state)
        await server.offer({"weight": np.ones(3, np.float32)})
        await stop(server)
        before = kept()
        for _ in range(2):
            server = await run("--mode", "async", "--state-dir", state, "--resume")
            assert "a new epoch" not in await stop(server)
            assert kept() == before
        # Whoever joins, though it changes no value, is a change: its life goes on after a restart.
        server = await run("--mode", "async", "--state-dir", state, "--resume")
        assert (await server.post("/v1/workers", b'{"rank": "w0", "session": "s"}')).status == 200
        await stop(server)
        assert len(kept()) == len(before) + 1
        # So are settings of the optimizer, and a request to save is granted whether or not anything has changed.
        server = await run("--mode", "async", "--state-dir", state, "--resume")
        assert (await server.request("PUT", "/v1/optimizer", b'{"lr": 0.5}')).status == 200
        assert (await server.post("/v1/checkpoints")).status == 201
        newest = kept()
        await stop(server)
        assert kept() == newest

    async def test_a_crash_in_between_is_one_change(self, run, tmp_path):
        state = tmp_path / "state"
        arguments = ("--mode", "async", "--state-dir", state, "--resume")
        server = await run(*arguments)
        await server.offer({"weight": np.ones(3, np.float32)})
        assert (await server.post("/v1/checkpoints")).status == 201
        server.process.kill()
        await server.ended()
        counts = []
        for _ in range(3):
            server = await run(*arguments)
            server.process.send_signal(signal.SIGTERM)
            await server.ended()
            counts.append(len(list(state.glob("checkpoint-*"))))
        assert counts == [2, 2, 2]


class TestRefusedStarts:
    async def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            line = await refused("--port", port)
        assert f"port {port} at 127.0.0.1 is in use" in line
        assert "--port" in line

    async def test_unreadable_checkpoint(self, start, tmp_path):
        server = await start(mode="async", state_dir=tmp_path / "state")
        await server.offer()
        name = (await server.post("/v1/checkpoints")).json["checkpoint"]
        (file,) = (tmp_path / "state").rglob(name)
        copy = tmp_path / "copy" / file.relative_to(tmp_path / "state")
        copy.parent.mkdir(parents=True)
        copy.write_bytes(file.read_bytes()[:-1])
        line = await refused("--port", "0", "--mode", "async", "--state-dir", tmp_path / "copy", "--resume")
        assert name in line

    @pytest.mark.parametrize(
        ("policy", "saved"),
        [
            ({"mode": "async"}, "async"),
            ({"mode": "ssp", "staleness": 1}, "ssp(1)"),
            ({"mode": "sync", "quorum": 2, "grace_seconds": 0}, "sync(quorum 2, grace 0 s)"),
        ],
    )
    async def test_a_saved_policy_that_the_rule_excludes(self, start, tmp_path, policy, saved):
        """What was typed is `sync`: the line says that the policy is another, whose, and how to go on."""
        server = await start(mode="sync", workers=3, state_dir=tmp_path / "state")
        await server.offer()
        assert (await server.put("/v1/policy", policy)).status == 200
        name = (await server.post("/v1/checkpoints")).json["checkpoint"]
        (file,) = (tmp_path / "state").rglob(name)
        copy = tmp_path / "copy" / file.relative_to(tmp_path / "state")
        copy.parent.mkdir(parents=True)
        copy.write_bytes(file.read_bytes())
        ruled = ("--mode", "sync", "--workers", "3", "--aggregation", "krum:0")
        line = await refused("--port", "0", *ruled, "--state-dir", tmp_path / "copy", "--resume")
        assert f"the policy is that of the checkpoint, {saved}, whatever --mode and --quorum say" in line
        assert "resume with --aggregation mean, change the policy with PUT /v1/policy" in line


class TestRefusedSettings:
    """What `serve` raises; `leeway.ps.cli` makes one line and exit code 2 of each (tests/ps/test_cli.py)."""

    async def refused(self, **settings):
        with pytest.raises(SettingError) as error:
            await lifecycle._Server(ServerConfig(port=0, **settings)).run()
        return str(error.value)

    async def test_host_that_is_none_of_ours(self):
        said = await self.refused(host="203.0.113.1", insecure=True)
        assert "cannot listen at 203.0.113.1" in said
        assert "--host" in said

    async def test_initial_values(self, tmp_path):
        file = tmp_path / "init.safetensors"
        assert "init.safetensors" in await self.refused(init=file)
        file.write_bytes(b"\xff" * 100)
        assert "init.safetensors" in await self.refused(init=file)

    async def test_history_that_cannot_be_written(self, tmp_path):
        assert "history.jsonl" in await self.refused(history=tmp_path / "nowhere" / "history.jsonl")

    async def test_state_directory_in_use(self, start, tmp_path):
        await start(state_dir=tmp_path)
        assert str(tmp_path) in await self.refused(state_dir=tmp_path)

    async def test_that_only_a_trial_step_refuses(self):
        assert "eps is 1e-300; no step can be made with it" in await self.refused(optimizer="adam", eps=1e-300)


async def test_settings_that_change_nothing_are_told_at_the_start(run):
    server = await run("--mode", "async", "--staleness", 3, "--beta1", 0.8, "--lr", 0.5, "--log-format", "json")
    server.process.terminate()
    code, said = await server.ended()
    assert code == 0
    rows = [json.loads(line) for line in said.splitlines()]
    assert {(row["setting"], row["detail"]) for row in rows if row["event"] == "a setting has no effect"} == {
        ("staleness", "it is the bound of ssp; --mode is async"),
        ("beta1", "it is of adam and adamw; --optimizer is sgd"),
    }


@pytest.mark.parametrize("until", [0, 7])
async def test_an_end_that_no_table_has_is_told(run, tmp_path, until):
    file = tmp_path / "leeway.toml"
    file.write_text(f"until = 9\n[group.G]\nuntil = 0\n[group.D]\nuntil = {until}\n")
    server = await run("--config", file, "--log-format", "json")
    server.process.terminate()
    code, said = await server.ended()
    assert code == 0
    assert ("the end is of no group with a table" in said) is (until == 0)


@pytest.mark.parametrize("momentum", [(), ("--momentum", 0.5)], ids=["without", "with"])
async def test_momentum_on_arrival_is_told_of_rmsprop_that_has_some(run, momentum):
    server = await run("--mode", "async", "--optimizer", "rmsprop", *momentum, "--log-format", "json")
    server.process.terminate()
    code, said = await server.ended()
    assert code == 0
    assert ("momentum on arrival" in said) is bool(momentum)


class TestSettings:
    def test_of_the_core(self):
        config = ServerConfig(mode="ssp", staleness=2, workers=3, lease_seconds=4.0, until=9)
        settings = machine_settings(config)
        assert (settings.workers, settings.lease_seconds, settings.until) == (3, 4.0, 9)
        assert [group.terms for group in settings.groups] == [PolicyTerms("ssp", 2)]

    def test_a_bound_is_for_ssp_alone(self):
        assert machine_settings(ServerConfig(mode="sync", staleness=2)).groups[0].terms == PolicyTerms("sync")

    def test_of_the_optimizer(self):
        (group,) = ServerConfig(optimizer="adamw", lr=0.5, beta1=0.8, clip_norm=2.0, warmup_steps=3).groups
        told = group.optimizer_settings().to_fields()
        assert (told["kind"], told["lr"], told["betas"], told["clip_norm"]) == ("adamw", 0.5, [0.8, 0.999], 2.0)
        assert told["warmup_steps"] == 3

    @pytest.mark.parametrize(
        ("schedule", "field"), [("cosine", "schedule_steps"), ("linear", "schedule_steps"), ("step", "step_every")]
    )
    def test_schedule_steps_mean_what_the_schedule_takes(self, schedule, field):
        (group,) = ServerConfig(lr_schedule=schedule, schedule_steps=100).groups
        assert group.optimizer_settings().to_fields()[field] == 100

    def test_every_setting_of_an_optimizer_arrives(self):
        given = {"optimizer": "rmsprop", "momentum": 0.5, "alpha": 0.8, "rho": 0.7, "centered": True, "eps": 1e-6}
        rates = {"lr_schedule": "step", "schedule_steps": 3, "lr_gamma": 0.5, "min_lr": 0.01}
        (group,) = ServerConfig(**given, **rates).groups
        expected = {"kind": "rmsprop", "momentum": 0.5, "alpha": 0.8, "rho": 0.7, "centered": True, "eps": 1e-6}
        expected |= {"lr_schedule": "step", "step_every": 3, "gamma": 0.5, "min_lr": 0.01}
        assert expected.items() <= group.optimizer_settings().to_fields().items()
