"""What bad input gets: a clear error that names the field, the value and the limit; the server goes on, untouched."""

import asyncio
import gc
import gzip

import numpy as np
import pytest

from leeway.protocol import limits
from tests.ps.server.rawclient import FRAME, frame, raw_frame

ROW = ["weight", "float32", "trainable", [4, 3], 0]


def message(worker, **changes):
    """The metadata of a push that would fit but for its tensors."""
    return worker.push_message(**changes)


class TestTensors:
    async def test_unknown_tensor(self, server, worker, gradient):
        async with server.untouched():
            reply = await worker.push(gradient | {"wieght": np.ones(3, np.float32)})
            problem = reply.refused(422, "unknown-tensor", "'wieght'", "offer its initial value first")
            assert problem["tensor"] == "wieght"
            assert problem["got"] == "wieght float32[3] trainable"

    async def test_wrong_shape(self, server, worker, gradient):
        async with server.untouched():
            reply = await worker.push(gradient | {"bias": np.ones((3, 1), np.float32)})
            problem = reply.refused(422, "wrong-tensor", "'bias'")
            assert problem["tensor"] == "bias"
            assert problem["expected"] == "bias float32[3] trainable"
            assert problem["got"] == "bias float32[3,1] trainable"

    async def test_wrong_dtype(self, server, worker, gradient):
        async with server.untouched():
            reply = await worker.push(gradient | {"weight": np.ones((4, 3), np.float64)})
            reply.refused(422, "wrong-tensor", "'weight'", "float32[4,3]", "float64[4,3]")

    async def test_wrong_kind(self, server, worker):
        body = raw_frame(message(worker) | {"tensors": [["bias", "float32", "float-buffer", [3], 0]]}, bytes(64))
        async with server.untouched():
            (await server.push(body)).refused(422, "wrong-tensor", "'bias'", "trainable", "float-buffer")

    async def test_duplicate_name(self, server, worker):
        rows = [["bias", "float32", "trainable", [3], 0], ["bias", "float32", "trainable", [3], 64]]
        async with server.untouched():
            reply = await server.push(raw_frame(message(worker) | {"tensors": rows}, bytes(128)))
            assert reply.refused(422, "duplicate-tensor", "'bias'", "twice")["tensor"] == "bias"

    async def test_duplicate_name_in_the_question_before_an_offer(self, server):
        row = ["new", "float32", "trainable", [3]]
        async with server.untouched():
            reply = await server.put("/v1/params?ask=1", {"specs": [row, row]})
            reply.refused(422, "duplicate-tensor", "'new'")

    async def test_the_worker_can_go_on_with_the_same_iteration(self, server, worker, gradient):
        (await worker.push({"nope": np.ones(1, np.float32)})).refused(422, "unknown-tensor")
        assert (await worker.push(gradient)).json["disposition"] == "applied"

    @pytest.mark.parametrize(
        "changed",
        [np.ones((2, 2), np.float32), np.ones((4, 3), np.float64)],
        ids=["shape", "dtype"],
    )
    async def test_offering_a_known_key_anew_stores_nothing(self, server, changed):
        async with server.untouched():
            reply = await server.put(
                "/v1/params", frame({}, {"weight": changed, "extra": np.ones(2, np.float32)}), {"Content-Type": FRAME}
            )
            reply.refused(409, "schema-conflict", "weight", "the group has weight float32[4,3]")

    async def test_new_keys_after_the_first_update(self, server, worker, gradient):
        await worker.push(gradient)
        async with server.untouched():
            body = frame({}, {"late": np.ones(2, np.float32)})
            (await server.put("/v1/params", body, {"Content-Type": FRAME})).refused(409, "schema-closed", "'late'")

    async def test_an_offer_of_nothing(self, server):
        async with server.untouched():
            reply = await server.put("/v1/params", frame({}), {"Content-Type": FRAME})
            reply.refused(400, "malformed-request", "no tensor")


class TestNonFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    async def test_is_refused_by_name_and_counted(self, server, worker, gradient, value):
        gradient["bias"][1] = value
        async with server.untouched():
            reply = await worker.push(gradient)
            problem = reply.refused(422, "non-finite", "'bias'", "`skip`")
            assert problem["tensor"] == "bias"
        assert server.metric("non_finite_total", group="default") == 1
        assert server.metric("refused_total", code="non-finite") == 1

    async def test_the_iteration_is_skipped_instead(self, server, worker, gradient):
        gradient["bias"][1] = np.nan
        (await worker.push(gradient)).refused(422, "non-finite")
        reply = await worker.push(None, kind="skip", samples=0)
        assert reply.json == {
            "clock": 0,
            "disposition": "skipped",
            "reason": "skipped",
            "version": None,
            "staleness": None,
        }
        assert (await worker.step(gradient | {"bias": np.ones(3, np.float32)})).json["clock"] == 1

    @pytest.mark.parametrize(("mode", "counted"), [("warn", 1), ("off", 0)])
    async def test_the_guard_can_warn_or_be_off(self, start, gradient, mode, counted):
        server = await start(mode="async", non_finite=mode)
        await server.offer()
        worker = await server.join("w0")
        gradient["bias"][1] = np.nan
        assert (await worker.step(gradient)).json["disposition"] == "applied"
        assert np.isnan((await server.values())["bias"][1])
        assert server.metric("non_finite_total", group="default") == counted

    async def test_large_bodies_are_looked_at_too(self, start):
        """Those that are looked at beside the loop."""
        server = await start(mode="async")
        await server.offer({"weight": np.zeros(100_000, np.float32)})
        worker = await server.join("w0")
        await worker.pull()
        async with server.untouched():
            update = np.zeros(100_000, np.float32)
            update[77_777] = np.inf
            (await worker.push({"weight": update})).refused(422, "non-finite", "'weight'")


# Frames that are none; `{}` stands for the worker's push message with the tensor table beside it.
MALFORMED = {
    "nothing": (b"", "truncated", "0 of 32 bytes of the header"),
    "header cut": (raw_frame({})[:20], "truncated", "20 of 32 bytes of the header"),
    "metadata cut": (raw_frame({"text": "x" * 100})[:64], "truncated", "metadata"),
    "body cut": (raw_frame({"tensors": [ROW]}, bytes(64))[:-1], "truncated"),
    "wrong magic": (raw_frame({}, magic=b"GIF8"), "wrong magic", "LWAY"),
    "other version": (raw_frame({}, version=2), "format version 2"),
    "flags": (raw_frame({}, flags=1), "flags"),
    "more behind it": (raw_frame({}) + b"more", "4 bytes follow"),
    "metadata over its limit": (
        raw_frame({}, metadata_bytes=limits.MAX_METADATA_BYTES + 1),
        str(limits.MAX_METADATA_BYTES + 1),
        f"the limit is {limits.MAX_METADATA_BYTES}",
    ),
    "no msgpack": (raw_frame(b"\xc1"), "not valid msgpack"),
    "no map": (raw_frame([1, 2]), "not a map"),
    "body longer than its tensors": (raw_frame({"tensors": [ROW]}, bytes(128)), "take 64 bytes", "128"),
    "body shorter than its tensors": (
        raw_frame({"tensors": [["weight", "float32", "trainable", [40, 3], 0]]}, bytes(64)),
        "weight",
        "the body has 64 bytes",
    ),
    "offset out of range": (raw_frame({"tensors": [[*ROW[:4], 1 << 40]]}, bytes(64)), "weight", str(1 << 40)),
    "offset negative": (raw_frame({"tensors": [[*ROW[:4], -64]]}, bytes(64)), "weight", "-64"),
    "offset not aligned": (raw_frame({"tensors": [[*ROW[:4], 8]]}, bytes(64)), "weight", "multiple of 64"),
    "overlapping": (
        raw_frame({"tensors": [ROW, ["bias", "float32", "trainable", [3], 0]]}, bytes(128)),
        "bias",
        "overlaps",
    ),
    "a gap": (raw_frame({"tensors": [ROW, ["bias", "float32", "trainable", [3], 128]]}, bytes(192)), "bias", "gap"),
    "padding not zero": (raw_frame({"tensors": [ROW]}, bytes(63) + b"\x01"), "weight", "padding"),
    "unknown dtype": (raw_frame({"tensors": [["w", "float31", "trainable", [1], 0]]}, bytes(64)), "'float31'"),
    "negative dimension": (raw_frame({"tensors": [["w", "float32", "trainable", [-1], 0]]}, bytes(64)), "-1"),
}


class TestFrames:
    @pytest.mark.parametrize("route", ["POST /v1/updates", "PUT /v1/params"])
    @pytest.mark.parametrize("case", MALFORMED)
    async def test_malformed(self, server, worker, route, case):
        body, *words = MALFORMED[case]
        method, _, target = route.partition(" ")
        async with server.untouched(), server.connect() as connection:
            reply = await connection.request(method, target, body, {"Content-Type": FRAME})
            reply.refused(400, "malformed-frame", *words)
            # The same connection serves on.
            assert (await connection.request("GET", "/livez")).status == 200

    async def test_a_body_that_the_request_has_no_room_for_is_not_allocated(self, server, worker):
        body = raw_frame(
            message(worker) | {"tensors": [["w", "float32", "trainable", [1 << 28], 0]]}, bytes(64), body_bytes=1 << 30
        )
        async with server.untouched():
            (await server.push(body)).refused(400, "malformed-frame", str(1 << 30), f"in a frame of {len(body)}")
        assert server.pool.lent_bytes + server.pool.retained_bytes == 0

    @pytest.mark.parametrize("method", ["POST /v1/updates", "PUT /v1/params"])
    @pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", None])
    async def test_wrong_content_type(self, server, method, kind):
        async with server.untouched():
            verb, _, target = method.partition(" ")
            headers = {"Content-Type": kind} if kind else {}
            reply = await server.request(verb, target, frame({}), headers)
            reply.refused(415, "unsupported-media", repr(kind or "application/octet-stream"), FRAME)

    @pytest.mark.parametrize("target", ["/v1/updates", "/v1/workers"])
    async def test_compressed(self, server, target):
        async with server.untouched():
            headers = {"Content-Type": FRAME, "Content-Encoding": "gzip"}
            reply = await server.post(target, gzip.compress(b"{}"), headers)
            reply.refused(415, "unsupported-media", "Content-Encoding 'gzip'")


class TestTooLarge:
    LIMIT = 65_536

    @pytest.fixture
    async def server(self, start):
        one = await start(mode="async", max_body_bytes=self.LIMIT)
        await one.offer()
        return one

    @pytest.mark.parametrize("route", ["POST /v1/updates", "PUT /v1/params"])
    async def test_declared_it_is_refused_unread(self, server, route):
        declared = 10_000_000_000
        async with server.untouched(), server.connect() as connection:
            method, _, target = route.partition(" ")
            await connection.send_head(method, target, {"Content-Type": FRAME, "Content-Length": declared})
            (await connection.reply()).refused(413, "body-too-large", str(declared), "the limit here is")

    @pytest.mark.parametrize("route", ["POST /v1/updates", "PUT /v1/params"])
    async def test_declared_in_the_frame_alone(self, server, route):
        """Chunked, so that the HTTP header tells no length."""
        head = raw_frame({"tensors": []}, body_bytes=self.LIMIT + 64)
        async with server.untouched(), server.connect() as connection:
            method, _, target = route.partition(" ")
            await connection.send_head(method, target, {"Content-Type": FRAME, "Transfer-Encoding": "chunked"})
            await connection.send(b"%x\r\n%b\r\n" % (len(head), head))
            (await connection.reply()).refused(413, "body-too-large", str(self.LIMIT + 64), f"limit is {self.LIMIT}")

    async def test_metadata_declared_too_long_is_refused_before_it_comes(self, server):
        head = raw_frame(b"", metadata_bytes=limits.MAX_METADATA_BYTES + 1)
        async with server.untouched(), server.connect() as connection:
            await connection.send_head("POST", "/v1/updates", {"Content-Type": FRAME, "Transfer-Encoding": "chunked"})
            await connection.send(b"%x\r\n%b\r\n" % (len(head), head))
            (await connection.reply()).refused(400, "malformed-frame", f"limit is {limits.MAX_METADATA_BYTES}")

    async def test_json_declared(self, server):
        declared = limits.MAX_JSON_BYTES + 1
        async with server.untouched(), server.connect() as connection:
            await connection.send_head("POST", "/v1/workers", {"Content-Length": declared})
            (await connection.reply()).refused(413, "body-too-large", str(declared), str(limits.MAX_JSON_BYTES))

    async def test_json_counted_while_streaming(self, server):
        async with server.untouched(), server.connect() as connection:
            await connection.send_head("POST", "/v1/workers", {"Transfer-Encoding": "chunked"})
            piece = b"[" * 65_536
            for _ in range(limits.MAX_JSON_BYTES // len(piece) + 1):
                await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            (await connection.reply()).refused(413, "body-too-large", f"more than {limits.MAX_JSON_BYTES} bytes")

    async def test_the_largest_that_fits_is_taken(self, start):
        server = await start(mode="async", max_body_bytes=self.LIMIT)
        await server.offer({"weight": np.ones(self.LIMIT // 4, np.float32)})
        assert server.runtime.parameters["default"].versions.current.layout.nbytes == self.LIMIT


class TestGoneInTheMiddle:
    ELEMENTS = 500_000

    @pytest.fixture
    async def server(self, start):
        one = await start(mode="async")
        await one.offer({"weight": np.zeros(self.ELEMENTS, np.float32)})
        # The thread that has made the version lets go of the offer a moment after the reply.
        await one.until(lambda: one.pool.lent_bytes < 2 * self.ELEMENTS * 4)
        return one

    @pytest.mark.parametrize("how", ["reset", "close", "half-close"])
    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
    async def test_nothing_is_applied_and_the_memory_is_back(self, server, worker, how, chunked):
        body = worker.push_body({"weight": np.ones(self.ELEMENTS, np.float32)})
        lent_bytes = server.pool.lent_bytes
        async with server.untouched():
            async with server.connect() as connection:
                framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": len(body)}
                await connection.send_head("POST", "/v1/updates?pull=1", {"Content-Type": FRAME} | framing)
                await connection.send(b"%x\r\n" % len(body) if chunked else b"")
                await connection.send(body[: len(body) // 2])
                await server.until(lambda: server.pool.lent_bytes > lent_bytes)
                if how == "reset":
                    connection.abort()
                elif how == "close":
                    connection.writer.close()
                else:
                    connection.writer.write_eof()
                await server.until(lambda: server.metric("aborted_bodies_total") == 1)
            await server.until(lambda: server.pool.lent_bytes == lent_bytes)
        assert not server.runtime.bodies
        # The same update, whole, is taken.
        assert (await server.push(body)).json["disposition"] == "applied"

    async def test_in_the_middle_of_an_offer(self, server):
        body = frame({}, {"more": np.ones(self.ELEMENTS, np.float32)})
        lent_bytes = server.pool.lent_bytes
        async with server.untouched():
            async with server.connect() as connection:
                await connection.send_head("PUT", "/v1/params", {"Content-Type": FRAME, "Content-Length": len(body)})
                await connection.send(body[:-1])
                await server.until(lambda: server.pool.lent_bytes > lent_bytes)
            await server.until(lambda: server.metric("aborted_bodies_total") == 1)
            await server.until(lambda: server.pool.lent_bytes == lent_bytes)

    async def test_refused_bodies_are_not_kept(self, server, worker):
        """Not even until the garbage collector comes by."""
        lent_bytes = server.pool.lent_bytes
        ones = np.ones(self.ELEMENTS, np.float32)
        gc.disable()
        try:
            (await worker.push({"nope": ones})).refused(422, "unknown-tensor")
            (await worker.push({"weight": ones * np.nan})).refused(422, "non-finite")
            (await worker.push({"weight": ones}, clock=5)).refused(409, "wrong-clock")
            (await worker.push({"weight": ones}, epoch=5)).refused(409, "old-epoch")
            await server.until(lambda: server.pool.lent_bytes == lent_bytes)
        finally:
            gc.enable()


class TestManyAtOnce:
    async def test_bad_and_good_side_by_side(self, server, worker, gradient):
        """Errors of some connections are nothing to the others."""
        bodies = [body for body, *_ in MALFORMED.values()] * 4
        good = worker.push_body(gradient)
        replies = await asyncio.gather(*(server.push(body) for body in [*bodies, good]))
        assert [reply.status for reply in replies] == [400] * len(bodies) + [200]
        assert np.allclose((await server.values())["bias"], 0.9)

    async def test_every_refusal_is_counted_once(self, server, worker, gradient):
        (await worker.push(gradient, epoch=1)).refused(409, "old-epoch")
        (await worker.push({"nope": np.ones(1, np.float32)})).refused(422, "unknown-tensor")
        (await server.push(b"")).refused(400, "malformed-frame")
        (await server.get("/nowhere")).refused(404, "not-found")
        for code in ("old-epoch", "unknown-tensor", "malformed-frame", "not-found"):
            assert server.metric("refused_total", code=code) == 1, code


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"rank": "w0", "session": "s", "rank": "w1"}', "the key 'rank' is there twice"),
        (b'{"rank": "w0", "session": "s", "capabilities": {"a": 1, "\\u0061": 2}}', "the key 'a' is there twice"),
        (b'{"rank": ' + b"[" * 50_000, "nested too deep"),
        (b'{"rank": ' + b"9" * 5000 + b"}", "digits"),
    ],
    ids=["a key twice", "a key twice within", "nested", "a long number"],
)
@pytest.mark.parametrize("target", ["POST /v1/workers", "PUT /v1/policy", "PUT /v1/params?ask=1"])
async def test_json_that_is_not_one_value(server, target, body, words):
    async with server.untouched():
        reply = await server.request(*target.split(), body, {"Content-Type": "application/json"})
        reply.refused(400, "malformed-request", words)
