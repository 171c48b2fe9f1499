"""Readers that are no workers: conditional requests, and versions as files that other tools open."""

import asyncio
import json
import shutil
import subprocess

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.ps.server.rawclient import FRAME, arrays
from tests.ps.server.serving import MODEL

SAFETENSORS, NPY = "application/vnd.safetensors", "application/x-npy"


class TestReaders:
    async def test_if_none_match(self, server):
        first = await server.get("/v1/params", {"Accept": FRAME})
        assert first.frame.message["reason"] == "reader"
        etag = first.headers["etag"]
        for accept in (FRAME, "*/*"):
            reply = await server.get("/v1/params", {"Accept": accept, "If-None-Match": etag})
            assert (reply.status, reply.headers["etag"]) == (304, etag)

    @pytest.mark.parametrize("tag", ['"somebody-else"', '"1.1"', "*, nonsense"])
    async def test_another_tag_gets_the_whole(self, server, tag):
        reply = await server.get("/v1/params", {"Accept": FRAME, "If-None-Match": tag})
        assert reply.status == 200

    @pytest.mark.parametrize("accept", [FRAME, "*/*"])
    async def test_lists_and_any_version(self, server, worker, accept):
        etag = (await server.get("/v1/params", {"Accept": FRAME})).headers["etag"]
        for tag in ("*", f'"1.1", {etag}', f'W/{etag}, "x"', f'"a,b",{etag}'):
            reply = await server.get("/v1/params", {"Accept": accept, "If-None-Match": tag})
            assert (reply.status, reply.headers["etag"], reply.body) == (304, etag, b""), tag
            assert json.loads(reply.headers["leeway-grant"])["unchanged"] is True

    async def test_any_version_waits_for_the_first(self, start):
        empty = await start(mode="async")
        assert (await empty.get("/v1/params", {"Accept": FRAME, "If-None-Match": "*"})).status == 204

    async def test_waits_for_a_version(self, server, worker, gradient):
        assert json.loads((await server.get("/v1/params?min_version=2")).headers["leeway-reason"])["reason"] == (
            "min-version"
        )
        parked = asyncio.create_task(server.get("/v1/params?min_version=2", {"Accept": FRAME, "Prefer": "wait=20"}))
        group = server.runtime.machine.groups["default"]
        await server.until(lambda: len(group.waiting))
        assert (await server.get("/v1/status")).json["groups"]["default"]["readers_waiting"] == 1
        await worker.push(gradient)
        assert (await parked).headers["etag"] == f'"{worker.epoch}.2"'

    async def test_head_has_the_headers_alone(self, server):
        whole = await server.get("/v1/params", {"Accept": SAFETENSORS})
        async with server.connect() as connection:
            for _ in range(2):
                head = await connection.request("HEAD", "/v1/params", headers={"Accept": SAFETENSORS})
                assert head.status == 200
                assert head.headers["etag"] == whole.headers["etag"]
                assert head.headers["content-length"] == str(len(whole.body))

    async def test_head_of_a_large_model(self, server):
        await server.offer({"large": np.zeros(100_000, np.float32)})
        async with server.connect() as connection:
            head = await connection.request("HEAD", "/v1/params", headers={"Accept": FRAME})
            assert int(head.headers["content-length"]) > 400_000
            assert (await connection.request("GET", "/livez")).json == {"live": True}


class TestDownloads:
    async def test_safetensors(self, server):
        for accept in (SAFETENSORS, "*/*", "application/*"):
            reply = await server.get("/v1/params", {"Accept": accept})
            assert reply.kind == SAFETENSORS
            assert reply.headers["etag"]
            tensors = safetensors.torch.load(reply.body)
            assert sorted(tensors) == sorted(MODEL)
            assert all(torch.equal(tensor, torch.from_numpy(MODEL[name])) for name, tensor in tensors.items())

    async def test_some_keys(self, server):
        reply = await server.get("/v1/params?keys=bias,seen", {"Accept": SAFETENSORS})
        tensors = safetensors.torch.load(reply.body)
        assert sorted(tensors) == ["bias", "seen"]

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("keys=a,b", ["a,b"]),
            ("keys=a%2Cb", ["a,b"]),
            ("keys=a&keys=b", ["a", "b"]),
            ("keys=a,b&keys=b&keys=bias,weight&keys=b", ["a,b", "b", "bias", "weight"]),
            ("keys=a,bias", ["a", "bias"]),
            ("keys=,&keys=a", [",", "a"]),
        ],
    )
    async def test_names_with_commas(self, server, query, names):
        await server.offer({name: np.ones(2, np.float32) for name in ("a", "b", "a,b", ",")})
        reply = await server.get(f"/v1/params?{query}", {"Accept": SAFETENSORS})
        assert sorted(safetensors.torch.load(reply.body)) == sorted(names)

    async def test_one_tensor_with_a_comma_as_npy(self, server, tmp_path):
        await server.offer({"a,b": np.arange(3, dtype=np.float32)})
        reply = await server.get("/v1/params?keys=a,b", {"Accept": NPY})
        (tmp_path / "t.npy").write_bytes(reply.body)
        assert np.load(tmp_path / "t.npy").tolist() == [0, 1, 2]

    @pytest.mark.parametrize("query", ["keys=", "keys=bias,", "keys=bias&keys=nope", "keys=a,b"])
    async def test_a_name_that_is_none_is_named(self, server, query):
        reply = await server.get(f"/v1/params?{query}", {"Accept": SAFETENSORS})
        assert (reply.status, reply.json["code"]) == (422, "unknown-tensor")

    async def test_one_tensor_as_npy(self, server, tmp_path):
        reply = await server.get("/v1/params?keys=weight", {"Accept": NPY})
        assert reply.kind == NPY
        (tmp_path / "weight.npy").write_bytes(reply.body)
        assert np.array_equal(np.load(tmp_path / "weight.npy"), MODEL["weight"])

    async def test_a_large_model(self, server):
        """More than one piece, and more than a transport takes at once."""
        large = np.random.default_rng(7).random((1500, 1000), np.float32)
        await server.offer({"large": large})
        reply = await server.get("/v1/params?keys=large", {"Accept": SAFETENSORS})
        assert torch.equal(safetensors.torch.load(reply.body)["large"], torch.from_numpy(large))
        assert np.array_equal(arrays(await server.get("/v1/params", {"Accept": FRAME}))["large"], large)

    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    async def test_real_curl(self, server, worker, gradient, tmp_path):
        await worker.push(gradient)
        file = tmp_path / "model.safetensors"
        command = ["curl", "--fail", "--silent", "--show-error", "--noproxy", "*", "-o", str(file)]
        ended = await asyncio.to_thread(subprocess.run, [*command, server.url + "/v1/params"], check=False, timeout=20)
        assert ended.returncode == 0
        tensors = safetensors.torch.load_file(file)
        values = await server.values()
        assert sorted(tensors) == sorted(values)
        assert all(np.array_equal(tensor.numpy(), values[name]) for name, tensor in tensors.items())
