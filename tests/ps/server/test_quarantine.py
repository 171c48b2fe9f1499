"""Bad workers, over HTTP: updates that are too large, who is kept out for them, and how the others go on."""

import json

import numpy as np
import pytest
from structlog.testing import capture_logs

WHY = json.dumps({"why": "its data are wrong"}).encode()
JSON = {"Content-Type": "application/json"}


def update(size):
    """Of the norm `size`."""
    return {"bias": np.array([size, 0, 0], np.float32)}


@pytest.fixture
async def strict(start):
    server = await start(mode="async", lr=0.001, max_update_norm=10.0)
    await server.offer()
    return server


async def test_too_large_updates_are_refused_and_told(strict):
    worker = await strict.join("w0")
    await worker.pull()
    assert (await worker.push(update(10))).status == 200
    await worker.pull()
    with capture_logs() as logs:
        async with strict.untouched():
            reply = await worker.push(update(11))
            told = reply.refused(422, "update-too-large", "its norm is 11, and at most 10 is taken")
    assert (told["refused"], told["quarantine_after"]) == (1, 3)
    assert strict.metric("refused_total", route="/v1/updates", code="update-too-large") == 1
    (line,) = [line for line in logs if line["event"] == "update too large"]
    assert (line["rank"], line["clock"], line["log_level"]) == ("w0", 1, "warning")
    assert list(strict.runtime.decisions.after(0))[-1].kind == "update-too-large"


async def test_three_of_them_keep_a_rank_out_until_it_is_released(strict):
    worker = await strict.join("w0")
    await worker.pull()
    with capture_logs() as logs:
        for _ in range(2):
            (await worker.push(update(1e6))).refused(422, "update-too-large")
        (await worker.push(update(1e6))).refused(403, "quarantined", "3 updates in a row", "whoever runs the server")
    assert [line["rank"] for line in logs if line["event"] == "quarantined"] == ["w0"]
    status = (await strict.get("/v1/status")).json
    assert status["workers"] == []
    assert [row["rank"] for row in status["quarantine"]] == ["w0"]
    assert strict.metric("quarantined_ranks") == 1
    assert strict.metric("departures_total", reason="quarantined") == 1
    again = json.dumps({"rank": "w0", "session": "another"}).encode()
    (await strict.post("/v1/workers", again, JSON)).refused(403, "quarantined")
    reply = await strict.request("DELETE", "/v1/quarantine/w0")
    assert (reply.status, reply.json) == (200, {"rank": "w0", "why": None})
    assert strict.metric("quarantined_ranks") == 0
    assert (await strict.post("/v1/workers", again, JSON)).status == 200


async def test_an_admin_keeps_one_out(strict):
    await strict.join("w0")
    reply = await strict.put("/v1/quarantine/w0", WHY, JSON)
    assert (reply.status, reply.json) == (200, {"rank": "w0", "why": "its data are wrong"})
    assert (await strict.get("/v1/status")).json["workers"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/v1/quarantine/w0", b"{}", 400),
        ("PUT", "/v1/quarantine/w0", b'{"why": ""}', 400),
        ("PUT", "/v1/quarantine/w0", b'{"why": "x", "for": 3}', 400),
        ("PUT", "/v1/quarantine/w0?rank=w1", WHY, 400),
        ("PUT", "/v1/quarantine/w%200", WHY, 400),
        ("DELETE", "/v1/quarantine/w%200", None, 400),
        ("DELETE", "/v1/quarantine/w0", None, 422),
        ("GET", "/v1/quarantine/w0", None, 405),
    ],
)
async def test_what_is_refused(strict, method, path, body, status):
    async with strict.untouched():
        assert (await strict.request(method, path, body, JSON if body else {})).status == status


async def test_what_is_usual_is_known_from_the_others(start):
    server = await start(mode="async", lr=0.001, max_update_norm_ratio=5.0)
    await server.offer()
    good, bad = await server.join("w0"), await server.join("w1")
    for clock in range(8):
        await good.pull()
        assert (await good.push(update(1 + clock % 2))).status == 200
    await bad.pull()
    (await bad.push(update(7.6))).refused(422, "update-too-large", "more than 5 times the median of late, 1.5")
    assert (await bad.push(update(7.4))).status == 200


@pytest.mark.parametrize("mode", ["warn", "off"])
async def test_what_has_no_norm_is_beyond_any_limit(start, mode):
    server = await start(mode="async", max_update_norm=10.0, non_finite=mode)
    await server.offer()
    worker = await server.join("w0")
    await worker.pull()
    (await worker.push(update(float("nan")))).refused(422, "update-too-large")
    (await worker.push(update(float("inf")))).refused(422, "update-too-large")


async def test_a_round_goes_on_without_whoever_is_kept_out(start):
    server = await start(mode="sync", workers=2, max_update_norm=10.0, quarantine_after=1)
    await server.offer()
    good, bad = await server.join("w0"), await server.join("w1")
    await good.pull()
    await bad.pull()
    assert (await good.push(update(1))).json["disposition"] == "held"
    (await bad.push(update(100))).refused(403, "quarantined")
    assert (await server.get("/v1/status")).json["groups"]["default"]["version"] == 2
