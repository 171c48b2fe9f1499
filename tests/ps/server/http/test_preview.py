"""`/v1/policy/preview` over a socket: what it answers, and that it refuses what the change would be refused for."""

import pytest


async def test_it_says_what_a_change_would_do(server, worker):
    async with server.untouched():
        told = (await server.get("/v1/policy/preview?mode=ssp&staleness=2&group=default")).json
    assert told["policy"] == {"group": "default", "mode": "ssp", "staleness": 2, "switching_at": None}
    assert told["changes"]
    reply = await server.get("/v1/policy/preview?mode=sync&quorum=1&grace_seconds=0.5")
    assert reply.status == 200, reply
    told = reply.json
    assert told["policy"]["grace_seconds"] == 0.5
    told = (await server.get("/v1/policy/preview?mode=sync&quorum=1&grace_seconds=auto")).json
    assert told["policy"]["grace_seconds"] is None
    assert not (await server.get("/v1/policy/preview?mode=async")).json["changes"]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "'mode' is missing"),
        ("mode=sync&clock=1", 400, "'clock' is not known"),
        ("mode=ssp&staleness=x", 400, "'staleness' is 'x'"),
        (
            "mode=sync&quorum=1&grace_seconds=x",
            400,
            "'grace_seconds' is 'x', it must be a number from 0.0 to 3600.0, or",
        ),
        ("mode=ssp", 422, "needs a staleness bound"),
        ("mode=bsp", 422, "unknown policy 'bsp'"),
        ("mode=sync&group=x", 422, "there is no group 'x'"),
    ],
)
async def test_what_is_refused(server, query, status, words):
    reply = await server.get(f"/v1/policy/preview?{query}")
    assert reply.status == status
    assert words in reply.problem["detail"]
