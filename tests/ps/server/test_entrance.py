"""Who gets in at a server, and what it says of its certificate's end."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from leeway.ps.server.entrance import Entrance
from leeway.ps.settings.config import ServerConfig
from tests.ps.server.serving import built, serve
from tests.transport.credentials.clusters import Keys


@pytest.mark.parametrize(
    ("ends_in_days", "words"), [(6.5, "it ends in 6.5 days: ps-keys renew"), (-1, "it has ended: ps-keys renew")]
)
async def test_a_certificate_that_ends_is_told_of_while_the_server_runs(ends_in_days, words, tmp_path):
    keys = Keys(tmp_path / "cluster")
    keys.end("server", in_seconds=86_400 * ends_in_days)
    pair = keys.pair("server")
    entrance = Entrance(ServerConfig(tls_cert=pair.cert, tls_key=pair.key))
    with capture_logs() as logs:
        watching = asyncio.create_task(entrance.watch(0.0))
        async with asyncio.timeout(30):
            while len(logs) < 2:  # noqa: ASYNC110 - there is no event for what is logged
                await asyncio.sleep(0)
        watching.cancel()
    assert {line["event"] for line in logs} == {"the certificate ends"}
    assert words in logs[0]["detail"]


async def test_one_that_does_not_end_is_no_news(tmp_path):
    keys = Keys(tmp_path / "cluster")
    pair = keys.pair("server")
    entrance = Entrance(ServerConfig(tls_cert=pair.cert, tls_key=pair.key))
    with capture_logs() as logs:
        entrance.warn("https://127.0.0.1:1")
    assert logs == []


def test_a_host_beyond_this_machine_needs_credentials(tmp_path):
    keys = Keys(tmp_path / "cluster")
    tokens = keys.of("server") / "tokens.toml"
    for host in ("0.0.0.0", "::", "trainer", "10.0.0.7", "127.1"):
        with pytest.raises(ValueError, match="whoever reaches the port would own the model: give --tokens, or"):
            ServerConfig(host=host)
        ServerConfig(host=host, tokens=tokens)
        ServerConfig(host=host, insecure=True)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        ServerConfig(host=host)


@pytest.mark.parametrize(
    ("settings", "insecure"),
    [
        ({}, False),
        ({"insecure": True}, False),
        ({"host": "0.0.0.0", "insecure": True}, True),
        ({"host": "0.0.0.0", "insecure": True, "tokens": "tokens.toml"}, False),
    ],
)
async def test_what_lets_anybody_in_is_told(settings, insecure):
    async with built(ServerConfig(**settings)) as (runtime, _, _):
        assert runtime.status()["insecure"] is insecure
        assert runtime.metrics.registry.get_sample_value("leeway_server_insecure") == insecure


async def test_the_metric_is_of_the_certificate_that_is_shown(tmp_path):
    keys = Keys(tmp_path / "cluster")
    keys.end("server", in_seconds=3600)
    pair = keys.pair("server")
    async with serve(tls_cert=pair.cert, tls_key=pair.key) as server:

        def left():
            name = "leeway_server_certificate_expiry_timestamp_seconds"
            return server.runtime.metrics.registry.get_sample_value(name) - time.time()

        assert 3000 < left() <= 3600
        good = pair.cert.read_bytes()
        pair.cert.write_bytes(keys.pair("w0").cert.read_bytes())
        server.entrance.read_again()
        assert left() <= 3600, "its key is another's: the old one goes on to count"
        pair.cert.write_bytes(good)
        keys.renew("server")
        server.entrance.read_again()
        assert left() > 80 * 86_400
