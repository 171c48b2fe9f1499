"""Bad fields, in JSON, queries, headers and the message of a push: named, with the value and the limit."""

import numpy as np
import pytest

from leeway.protocol import limits
from tests.ps.server.rawclient import FRAME


class TestJson:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "no JSON object"),
            (b"{", "no JSON object"),
            (b"\xff\xfe\x00", "no JSON object"),
            (b"[1, 2]", "must be a JSON object, not a list"),
            (b'"text"', "not a str"),
            (b"null", "not a NoneType"),
            (b"[" * 50_000, "no JSON object"),
            (b'{"rank":' * 8_000, "no JSON object"),
            (b"1" * 5_000, "no JSON object"),
        ],
    )
    @pytest.mark.parametrize(
        "route",
        ["POST /v1/workers", "PUT /v1/params?ask=1", "POST /v1/barriers/b", "PUT /v1/policy", "PUT /v1/optimizer"],
    )
    async def test_no_json_object(self, server, route, body, words):
        method, _, target = route.partition(" ")
        async with server.untouched():
            reply = await server.request(method, target, body)
            reply.refused(400, "malformed-request", words)

    async def test_nested_just_so_that_it_can_be_read(self, server):
        """Whatever of the message is looked at, printed or kept: nothing gives way."""
        async with server.untouched():
            for depth in (10, 100, *range(800, 1000, 10)):
                reply = await server.post("/v1/workers", b'{"rank":' + b"[" * depth + b"]" * depth + b"}")
                assert reply.refused(400, "malformed-request")

    @pytest.mark.parametrize(
        ("route", "body", "words"),
        [
            ("POST /v1/workers", {"session": "s"}, ["'rank' is missing"]),
            ("POST /v1/workers", {"rank": "w0"}, ["'session' is missing"]),
            ("POST /v1/workers", {"rank": 7, "session": "s"}, ["'rank' is 7"]),
            ("POST /v1/workers", {"rank": "a b", "session": "s"}, ["'rank' is 'a b'", "A-Z"]),
            ("POST /v1/workers", {"rank": "r" * 65, "session": "s"}, ["'rank' is", "1 to 64"]),
            ("POST /v1/workers", {"rank": "w", "session": "s" * 65}, ["'session'", "1 to 64 characters"]),
            ("POST /v1/workers", {"rank": "w", "session": "s", "groups": "all"}, ["'groups' is 'all'", "a list"]),
            ("POST /v1/workers", {"rank": "w", "session": "s", "groups": []}, ["'groups'"]),
            ("POST /v1/workers", {"rank": "w", "session": "s", "groups": [[]]}, ["'groups'"]),
            ("PUT /v1/params?ask=1", {}, ["'specs' is missing"]),
            ("PUT /v1/params?ask=1", {"specs": {}}, ["'specs' is {}", "a list"]),
            ("PUT /v1/params?ask=1", {"specs": [["w"]]}, ["['w']", "[name, dtype, kind, shape]"]),
            ("PUT /v1/params?ask=1", {"specs": [["w", "f4", "trainable", [1]]]}, ["w", "'f4'"]),
            ("PUT /v1/params?ask=1", {"specs": [["w", "float32", "frozen", [1]]]}, ["'frozen'"]),
            ("PUT /v1/params?ask=1", {"specs": [["w", "float32", "trainable", [True]]]}, ["True"]),
            ("PUT /v1/params?ask=2", {}, ["'ask' is '2'", "true or false"]),
            ("PUT /v1/params?ask=", {}, ["'ask' is ''", "true or false"]),
            ("POST /v1/barriers/b", {"rank": "w0", "epoch": 1, "incarnation": 1}, ["'generation' is missing"]),
            ("POST /v1/barriers/b", {"rank": "w0", "epoch": "1e3", "incarnation": 1}, ["'epoch' is '1e3'"]),
            (
                "POST /v1/barriers/b",
                {"rank": "w0", "epoch": 1, "incarnation": 1, "generation": 0, "parties": 0},
                ["'parties' is 0", "from 1 to"],
            ),
            (
                "POST /v1/barriers/a%20b",
                {"rank": "w0", "epoch": 1, "incarnation": 1, "generation": 0},
                ["'name' is 'a b'"],
            ),
            ("PUT /v1/policy", {}, ["'mode' is missing"]),
            ("PUT /v1/policy", {"mode": ["ssp"]}, ["'mode' is ['ssp']"]),
            ("PUT /v1/policy", {"mode": "ssp", "staleness": "few"}, ["'staleness' is 'few'"]),
            ("PUT /v1/policy", {"mode": "ssp", "staleness": "3"}, ["'staleness' is '3'"]),
            ("PUT /v1/policy", {"mode": "sync", "quorum": 1, "grace_seconds": "much"}, ["'much'", 'or "auto"']),
            (
                *("PUT /v1/policy", {"mode": "sync", "quorum": 1, "grace": 0.5}),
                ["'grace' is not known; known are mode, staleness, quorum, grace_seconds"],
            ),
            ("PUT /v1/policy?grp=default", {"mode": "async"}, ["query: 'grp' is not known; known are group"]),
            ("PUT /v1/optimizer?grp=default", {"lr": 0.5}, ["query: 'grp' is not known; known are group"]),
            (
                "POST /v1/barriers/b",
                {"rank": "w0", "epoch": 1, "incarnation": 1, "generation": "0"},
                ["'generation' is '0'"],
            ),
            ("DELETE /v1/workers/w0", None, ["'epoch' is missing"]),
            ("DELETE /v1/workers/w0?epoch=-1&incarnation=1", None, ["'epoch' is '-1'"]),
            ("PUT /v1/workers/w0/lease?epoch=1", None, ["'incarnation' is missing"]),
            ("PUT /v1/workers/w0/lease?epoch=1&incarnation=0", None, ["'incarnation' is '0'", "from 1"]),
            ("GET /v1/params?rank=w0&epoch=1&incarnation=1", None, ["'clock' is missing"]),
            ("GET /v1/params?min_version=soon", None, ["'min_version' is 'soon'"]),
            ("GET /v1/params?since=yesterday", None, ["'yesterday'", "epoch.number"]),
            ("GET /v1/params?group=a%2Fb", None, ["'group' is 'a/b'"]),
            ("POST /v1/updates?pull=maybe", None, ["'pull' is 'maybe'"]),
        ],
    )
    async def test_the_field_is_named(self, server, worker, gradient, route, body, words):
        method, _, target = route.partition(" ")
        headers = {}
        if target.startswith("/v1/updates"):
            body, headers = worker.push_body(gradient), {"Content-Type": FRAME}
        async with server.untouched():
            reply = await server.request(method, target, body, headers)
            reply.refused(400, "malformed-request", *words)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"rank": None}, ["'rank' is missing"]),
            ({"clock": -1}, ["'clock' is -1"]),
            ({"clock": 1.5}, ["'clock' is 1.5"]),
            ({"clock": True}, ["'clock' is True"]),
            ({"version": "latest"}, ["'version' is 'latest'"]),
            ({"kind": "weights"}, ["'kind' is 'weights'", "gradient, delta, model, skip"]),
            ({"samples": 0}, ["'samples' is 0"]),
            ({"samples": 1 << 60}, ["'samples' is", str(2**53 - 1)]),
            ({"part": 2, "parts": 2}, ["'part' is 2", "below 'parts' = 2"]),
            ({"parts": limits.MAX_PARTS + 1}, ["'parts'", str(limits.MAX_PARTS)]),
            ({"kind": "skip"}, ["a skip carries no tensors"]),
            ({"metrics": {"loss": "low"}}, ["'loss' must be a number"]),
            ({"metrics": {str(i): 0.0 for i in range(33)}}, ["'metrics'", "at most 32"]),
        ],
    )
    async def test_the_field_of_a_push_is_named(self, server, worker, gradient, changes, words):
        async with server.untouched():
            (await worker.push(gradient, **changes)).refused(400, "malformed-request", *words)

    async def test_what_is_named_is_not_repeated_at_length(self, server):
        reply = await server.post("/v1/workers", {"rank": "r" * 1_000_000, "session": "s"})
        assert len(reply.body) < 1_000


class TestPolicyAndOptimizer:
    @pytest.mark.parametrize(
        ("body", "status", "words"),
        [
            ({"mode": "bsp"}, 422, ["unknown policy 'bsp'", "sync, async, ssp"]),
            ({"mode": "ssp"}, 422, ["needs a staleness bound"]),
            ({"mode": "sync", "staleness": 1}, 422, ["takes no staleness bound"]),
            ({"mode": "ssp", "staleness": -1}, 400, ["'staleness' is -1", f"from 0 to {limits.MAX_STALENESS}"]),
            ({"mode": "ssp", "staleness": limits.MAX_STALENESS + 1}, 400, ["'staleness'", str(limits.MAX_STALENESS)]),
        ],
    )
    async def test_policy(self, server, body, status, words):
        async with server.untouched():
            reply = await server.put("/v1/policy", body)
            reply.refused(status, "invalid-value" if status == 422 else "malformed-request", *words)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"lr": -0.1}, ["lr is -0.1", "at least 0"]),
            ({"lr": "fast"}, ["lr is 'fast'", "a number"]),
            ({"lr": True}, ["lr is True"]),
            ({"learning_rate": 1}, ["no setting 'learning_rate'", "lr"]),
            ({"kind": "adam"}, ["adam", "sgd"]),
            ({"kind": []}, ["kind is []"]),
            ({"betas": [0.9]}, ["betas", "two numbers"]),
            ({"lr_schedule": "cosine"}, ["schedule_steps is None"]),
            ({"lr_schedule": "linear"}, ["schedule_steps is None"]),
            ({"lr_schedule": "step", "step_every": 9, "min_lr": 5}, ["min_lr is 5", "at most the rate"]),
            ({"rho": 1}, ["rho is 1", "below 1"]),
            ({"alpha": None}, ["alpha is None", "a number"]),
            ({"centered": "yes"}, ["centered is 'yes'", "true or false"]),
            ({"clip_norm": 0}, ["clip_norm is 0"]),
            ({"clip_norm": 10**400}, ["clip_norm is 1000", "finite"]),
            ({"lr": 1e7}, ["lr is 10000000.0", "at most 1e+06"]),
            ({"weight_decay": [0.1] * 1000}, ["weight_decay is [0.1, 0.1", "..."]),
        ],
    )
    async def test_optimizer(self, server, body, words):
        before = (await server.get("/v1/optimizer")).json
        async with server.untouched():
            (await server.put("/v1/optimizer", body)).refused(422, "invalid-value", *words)
        assert (await server.get("/v1/optimizer")).json == before

    @pytest.mark.parametrize("body", [{"clip_norm": 2**64}, {"lr": 10**6}, {"delta_scale": 1, "momentum": 1e-300}])
    async def test_whole_numbers_and_extremes_that_the_next_step_can_be_made_with(self, server, body):
        reply = await server.put("/v1/optimizer", body)
        assert reply.status == 200, reply
        worker = await server.join("w0")
        await worker.step({"bias": np.ones(3, np.float32)})
        assert (await server.get("/livez")).status == 200

    async def test_what_no_step_can_be_made_with_is_refused_before_it_counts(self, start):
        server = await start(mode="async", optimizer="adam")
        await server.offer()
        (await server.put("/v1/optimizer", {"eps": 1e-60})).refused(422, "invalid-value", "eps is 1e-60", "NaN")
        await (await server.join("w0")).step({"bias": np.zeros(3, np.float32)})
        assert np.isfinite((await server.values())["bias"]).all()

    @pytest.mark.parametrize("body", [b'{"lr": NaN}', b'{"lr": Infinity}', b'{"lr": 1e999}'])
    async def test_a_rate_that_is_no_number(self, server, body):
        async with server.untouched():
            (await server.put("/v1/optimizer", body)).refused(422, "invalid-value", "lr is")

    @pytest.mark.parametrize(
        "route", ["GET /v1/params", "GET /v1/policy", "PUT /v1/policy", "GET /v1/optimizer", "PUT /v1/optimizer"]
    )
    async def test_unknown_group(self, server, route):
        method, _, target = route.partition(" ")
        body = {"mode": "async"} if method == "PUT" else None
        async with server.untouched():
            reply = await server.request(method, target + "?group=nobody", body)
            reply.refused(422, "unknown-group", "'nobody'", "this server has default")

    async def test_joining_an_unknown_group(self, server):
        async with server.untouched():
            reply = await server.post("/v1/workers", {"rank": "w1", "session": "s", "groups": ["nobody"]})
            reply.refused(422, "unknown-group", "'nobody'")


class TestPreferences:
    @pytest.mark.parametrize("value", ["wait", "wait=", "wait=soon", "wait=-1", "wait=nan"])
    @pytest.mark.parametrize("route", ["GET /v1/params", "POST /v1/barriers/b", "POST /v1/updates"])
    async def test_prefer(self, server, worker, gradient, route, value):
        method, _, target = route.partition(" ")
        body, headers = None, {"Prefer": value}
        if target == "/v1/updates":
            body, headers = worker.push_body(gradient), headers | {"Content-Type": FRAME}
        elif method == "POST":
            body = {**worker.life, "generation": 0}
        async with server.untouched():
            reply = await server.request(method, target, body, headers)
            reply.refused(400, "malformed-request", "Prefer: wait=", "a number of seconds")

    @pytest.mark.parametrize(
        "accept",
        ["text/html", "application/json", "image/png, text/*", "*/*;q=0", "application/vnd.leeway.frame; q = 0.0"],
    )
    async def test_accept(self, server, accept):
        async with server.untouched():
            reply = await server.get("/v1/params", {"Accept": accept})
            reply.refused(406, "not-acceptable", repr(accept), FRAME, "application/vnd.safetensors")


class TestDownloads:
    @pytest.mark.parametrize(
        ("query", "accept", "status", "code", "words"),
        [
            ("?keys=weight,nope", FRAME.upper(), 422, "unknown-tensor", ["'nope'"]),
            ("?keys=nope", "*/*", 422, "unknown-tensor", ["'nope'", "group default"]),
            ("", "application/x-npy", 400, "malformed-request", ["one tensor", "'keys'"]),
            ("?keys=weight,bias", "application/x-npy", 400, "malformed-request", ["one tensor"]),
        ],
    )
    async def test_keys(self, server, query, accept, status, code, words):
        async with server.untouched():
            reply = await server.get("/v1/params" + query, {"Accept": accept})
            reply.refused(status, code, *words)
