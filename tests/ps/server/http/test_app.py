"""The frame around the routes: errors as problem documents, connections that live on, what is counted."""

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from leeway.protocol import routes
from leeway.ps.watching import catalogue
from tests.ps.server.rawclient import FRAME, frame


class TestUnknown:
    @pytest.mark.parametrize("path", ["/page", "/v1", "/v1/", "/v2/params", "/v1/params/", "/v1/workers/a/b/c", "/%00"])
    async def test_route(self, server, path):
        async with server.untouched():
            (await server.get(path)).refused(404, "not-found", "/openapi.yaml")
        assert server.metric("requests_total", route="unknown", status="404") == 1

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", "/v1/params", "GET,HEAD,PUT"),
            ("GET", "/v1/updates", "POST"),
            ("PUT", "/v1/updates", "POST"),
            ("PATCH", "/v1/policy", "GET,HEAD,PUT"),
            ("GET", "/v1/workers/w0", "DELETE"),
            ("POST", "/metrics", "GET,HEAD"),
        ],
    )
    async def test_method(self, server, method, path, allowed):
        async with server.untouched():
            reply = await server.request(method, path)
            reply.refused(405, "method-not-allowed", method, path, allowed)
            assert reply.headers["allow"] == allowed

    async def test_what_is_no_http_ends_the_connection_only(self, server):
        async with server.untouched():
            for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"G" * 100_000 + b"\r\n\r\n"):
                async with server.connect() as connection:
                    await connection.send(garbage)
                    assert b" 400 " in (await connection.closed())[:20]

    async def test_chunks_that_are_none(self, server):
        async with server.untouched(), server.connect() as connection:
            await connection.send_head("POST", "/v1/updates", {"Content-Type": FRAME, "Transfer-Encoding": "chunked"})
            await connection.send(b"4\r\nLWAY\r\nzz\r\n")
            assert b" 400 " in (await connection.closed())[:20]


class TestConnections:
    async def test_kept_through_errors_of_every_kind(self, server, worker, gradient):
        async with server.connect() as connection:
            for _ in range(2):
                (await connection.request("GET", "/nowhere")).refused(404, "not-found")
                (await connection.request("PUT", "/v1/updates")).refused(405, "method-not-allowed")
                (await connection.request("POST", "/v1/workers", b"{")).refused(400, "malformed-request")
                (await connection.request("POST", "/v1/updates", b"x" * 100)).refused(415, "unsupported-media")
                refused = await connection.request("POST", "/v1/updates", b"x" * 100_000, {"Content-Type": FRAME})
                refused.refused(400, "malformed-frame")
                body = worker.push_body({"nope": np.ones(100_000, np.float32)})
                (await connection.request("POST", "/v1/updates", body, {"Content-Type": FRAME})).refused(
                    422, "unknown-tensor"
                )
                assert (await connection.request("GET", "/v1/params")).status == 200
                assert (await connection.request("GET", "/v1/params?min_version=99")).status == 204
            reply = await connection.request("POST", "/v1/updates", worker.push_body(gradient), {"Content-Type": FRAME})
            assert reply.json["disposition"] == "applied"

    async def test_asks_for_the_body_when_the_headers_pass(self, server, worker, gradient):
        body = worker.push_body(gradient)
        async with server.connect() as connection:
            headers = {"Content-Type": FRAME, "Content-Length": len(body), "Expect": "100-continue"}
            await connection.send_head("POST", "/v1/updates", headers)
            assert (await connection.reply()).status == 100
            await connection.send(body)
            assert (await connection.reply()).json["disposition"] == "applied"
            assert (await connection.request("GET", "/livez")).status == 200

    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({"Content-Type": FRAME, "Content-Length": 10**12}, 413, "body-too-large"),
            ({"Content-Type": "text/plain", "Content-Length": 10}, 415, "unsupported-media"),
            ({"Content-Type": FRAME, "Content-Length": 10, "Content-Encoding": "br"}, 415, "unsupported-media"),
            ({"Content-Type": FRAME, "Content-Length": 10, "Prefer": "wait=x"}, 400, "malformed-request"),
        ],
    )
    async def test_refuses_on_the_headers_and_asks_for_no_body(self, server, headers, status, code):
        async with server.connect() as connection:
            await connection.send_head("POST", "/v1/updates", headers | {"Expect": "100-continue"})
            (await connection.reply()).refused(status, code)

    @pytest.mark.parametrize("target", ["/v1/workers", "/v1/barriers/b"])
    async def test_asks_for_json_too(self, server, target):
        async with server.connect() as connection:
            await connection.send_head("POST", target, {"Content-Length": 2, "Expect": "100-continue"})
            assert (await connection.reply()).status == 100
            await connection.send(b"{}")
            (await connection.reply()).refused(400, "malformed-request", "is missing")

    async def test_many_requests_in_one_piece(self, server):
        async with server.connect() as connection:
            await connection.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 5)
            for _ in range(5):
                assert (await connection.reply()).json == {"live": True}


class TestOwnFailures:
    async def test_are_500_with_no_word_about_the_inside(self, server, monkeypatch):
        def broken():
            raise RuntimeError("the inside")

        monkeypatch.setattr(server.runtime, "status", broken)
        reply = await server.get("/v1/status")
        reply.refused(500, "internal", "its log says why")
        assert b"inside" not in reply.body
        monkeypatch.undo()
        assert (await server.get("/v1/status")).status == 200


class TestMetrics:
    async def test_every_series_of_the_catalogue_can_be_read(self, server, worker, gradient):
        await worker.push(gradient)
        reply = await server.get("/metrics")
        assert reply.kind == "text/plain"
        families = {family.name: family for family in text_string_to_metric_families(reply.body.decode())}
        declared = {metric.name.removesuffix("_total") for metric in catalogue.CATALOGUE}
        absent = {"checkpoint_timestamp_seconds", "certificate_expiry_timestamp_seconds"}
        assert declared - families.keys() == {f"leeway_server_{name}" for name in absent}, "no state, and no TLS"
        (clock,) = families["leeway_server_clock"].samples
        assert (clock.labels, clock.value) == ({"group": "default", "rank": "w0"}, 1)

    async def test_requests_and_bytes_go_by_the_route_not_the_path(self, server):
        await server.put("/v1/workers/a/lease?epoch=1&incarnation=1")
        await server.put("/v1/workers/b/lease?epoch=1&incarnation=1")
        assert server.metric("requests_total", route=routes.LEASE, method="PUT", status="409") == 2
        sent = server.metric("sent_bytes_total", route=routes.PARAMS)
        reply = await server.get("/v1/params")
        assert server.metric("sent_bytes_total", route=routes.PARAMS) == sent + len(reply.body)
        received = server.metric("received_bytes_total", route=routes.PARAMS)
        body = frame({}, {"extra": np.ones(5, np.float32)})
        await server.put("/v1/params", body, {"Content-Type": FRAME})
        assert server.metric("received_bytes_total", route=routes.PARAMS) == received + len(body)

    async def test_requests_are_timed_by_their_route(self, server):
        before = server.metric("request_seconds_count", route=routes.PARAMS)
        for target in ("/v1/params", "/v1/params?min_version=99", "/v1/params?clock=x"):
            await server.get(target)
        assert server.metric("request_seconds_count", route=routes.PARAMS) == before + 3
        assert 0 < server.metric("request_seconds_sum", route=routes.PARAMS) < 60

    async def test_refusals_go_by_route_and_code(self, server):
        await server.get("/v1/params?group=none")
        await server.put("/v1/policy?group=none", {"mode": "async"})
        await server.get("/nowhere")
        for route, code in (
            (routes.PARAMS, "unknown-group"),
            (routes.POLICY, "unknown-group"),
            ("unknown", "not-found"),
        ):
            assert server.metric("refused_total", route=route, code=code) == 1, route

    async def test_a_rank_is_gone_with_its_worker(self, server, worker):
        assert b'rank="w0"' in (await server.get("/metrics")).body
        server.advance(60.0)
        assert b'rank="w0"' not in (await server.get("/metrics")).body
