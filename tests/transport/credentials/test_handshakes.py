"""Certificates in use: who is not taken hears why, on both sides, and at once."""

import asyncio
import contextlib
import socket
import ssl

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from leeway.errors import SettingError, WireError
from leeway.protocol import routes
from leeway.transport.credentials import tls
from leeway.transport.credentials.credentials import NOTHING, Credentials
from leeway.transport.credentials.handshakes import QUIET_SECONDS, Refusals
from leeway.transport.failures import Lost
from leeway.transport.http import arrivals
from leeway.transport.http.exchange import Exchange
from leeway.transport.http.listener import Listener
from tests.transport.credentials.clusters import Keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys") / "cluster")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Of another authority, for other names."""
    return Keys(tmp_path_factory.mktemp("others") / "cluster", hosts=("elsewhere.example",))


@contextlib.asynccontextmanager
async def listening(context):
    async def status(_):
        return web.json_response({"ok": True})

    listener = Listener([web.get(routes.STATUS, status)], lease_seconds=10, tls=context)
    try:
        yield await listener.start("127.0.0.1", 0)
    finally:
        await listener.stop()


async def ask(url, credentials):
    exchange = Exchange(url, credentials=credentials)
    try:
        return await exchange.read_json(routes.STATUS, {})
    finally:
        await exchange.close()


def lines(logs):
    return [(line["reason"], line["detail"]) for line in logs if line["event"] == "a connection was refused"]


async def test_who_is_known(keys):
    async with listening(tls.for_listener(keys.pair("server"), keys.ca)) as url:
        with capture_logs() as logs:
            assert await ask(url, keys.credentials("w0")) == {"ok": True}
    assert url.startswith("https://")
    assert lines(logs) == []


async def test_a_certificate_that_has_ended(tmp_path):
    keys = Keys(tmp_path / "cluster")
    keys.end("server")
    async with listening(tls.for_listener(keys.pair("server"))) as url:
        with capture_logs() as logs, pytest.raises(SettingError) as refused:
            await ask(url, keys.credentials("w0"))
    said = f"the certificate of {url} is not to be trusted: certificate has expired; whoever runs it has to renew it"
    assert str(refused.value) == f"{said} (ps-keys renew)"
    assert [reason for reason, _ in lines(logs)] == ["ended"]


async def test_a_certificate_for_other_names(others):
    async with listening(tls.for_listener(others.pair("server"))) as url:
        with pytest.raises(SettingError, match=r"not valid for '127.0.0.1'; connect by a name that it is for, or have"):
            await ask(url, others.credentials("w0"))


@pytest.mark.parametrize("system", [True, False], ids=["the system's", "another"])
async def test_an_authority_that_is_not_believed(system, keys, others):
    async with listening(tls.for_listener(others.pair("server"))) as url:
        shown = NOTHING if system else keys.credentials("w0")
        with pytest.raises(SettingError, match=r"unable to get local issuer certificate; .* PS_TLS_CA is the file"):
            await ask(url, shown)


async def test_a_certificate_that_signs_itself(tmp_path, keys):
    # The authority's own, where a server's should be.
    key = tmp_path / "key.pem"
    key.write_bytes((keys.folder / "ca.key").read_bytes())
    key.chmod(0o600)
    async with listening(tls.for_listener(tls.KeyPair(keys.ca, key))) as url:
        with pytest.raises(SettingError, match="self-signed certificate; where its authority is one of your own"):
            await ask(url, NOTHING)


async def test_who_shows_no_certificate(keys):
    async with listening(tls.for_listener(keys.pair("server"), keys.ca)) as url:
        with capture_logs() as logs, pytest.raises(SettingError) as refused:
            await ask(url, keys.credentials("w0", pair=False))
    said = "does not take the certificate of this side: certificate required; give one with PS_TLS_CERT"
    assert f"{url} {said}" in str(refused.value)
    assert lines(logs) == [
        ("no certificate", "a client shows no certificate; it is given one with PS_TLS_CERT and PS_TLS_KEY")
    ]


async def test_who_shows_one_of_another_authority(keys, others):
    async with listening(tls.for_listener(keys.pair("server"), keys.ca)) as url:
        shown = others.pair("w0")
        with (
            capture_logs() as logs,
            pytest.raises(SettingError, match="unknown ca; PS_TLS_CERT must be of an"),
        ):
            await ask(url, Credentials(None, keys.ca, shown))
    detail = "the certificate of a client is not to be trusted: unable to get local issuer certificate"
    assert lines(logs) == [("certificate", detail)]


async def test_who_shows_one_that_has_ended(tmp_path):
    keys = Keys(tmp_path / "cluster")
    keys.end("w0")
    async with listening(tls.for_listener(keys.pair("server"), keys.ca)) as url:
        with (
            capture_logs() as logs,
            pytest.raises(SettingError, match=r"certificate expired; renew it \(ps-keys"),
        ):
            await ask(url, keys.credentials("w0"))
    assert lines(logs) == [("certificate", "the certificate of a client is not to be trusted: certificate has expired")]


async def test_http_where_https_is(keys):
    async with listening(tls.for_listener(keys.pair("server"))) as url:
        with capture_logs() as logs, pytest.raises(WireError, match="it begins with https://"):
            await ask(url.replace("https:", "http:"), keys.credentials("w0"))
    assert lines(logs) == [("no tls", "a client speaks http: the address of this side begins with https://")]


async def test_https_where_http_is(keys):
    async with listening(None) as url:
        with pytest.raises(SettingError, match="does not speak TLS as this side does, is it http:// there"):
            await ask(url.replace("http:", "https:"), keys.credentials("w0"))


async def test_a_connection_that_is_refused_is_tried_again(keys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Lost):
        await ask(url, keys.credentials("w0"))


async def until_refused(url, begun, newcomer):
    """Newcomers come, one after the other, while one that has come before goes on."""
    async with asyncio.timeout(30):
        while True:
            assert await begun.read_json(routes.STATUS, {}) == {"ok": True}
            await ask(url, newcomer)


async def test_one_that_ends_while_it_is_in_use(tmp_path):
    keys = Keys(tmp_path / "cluster")
    keys.end("server", in_seconds=2)
    async with listening(tls.for_listener(keys.pair("server"))) as url:
        begun = Exchange(url, credentials=keys.credentials("w0"))
        try:
            with capture_logs() as logs:
                with pytest.raises(SettingError, match="certificate has expired"):
                    await until_refused(url, begun, keys.credentials("w1"))
                # It may have ended between the two sides' looks at it; of the next one both know.
                with pytest.raises(SettingError, match="certificate has expired"):
                    await ask(url, keys.credentials("w1"))
            assert await begun.read_json(routes.STATUS, {}) == {"ok": True}, "what is open stays open"
        finally:
            await begun.close()
        assert {"ended"} <= {reason for reason, _ in lines(logs)} <= {"ended", "not trusted"}


async def test_a_renewed_one_is_shown_to_who_comes_next(tmp_path):
    keys = Keys(tmp_path / "cluster")
    keys.end("server")
    context = tls.for_listener(keys.pair("server"))
    async with listening(context) as url:
        with pytest.raises(SettingError, match="has expired"):
            await ask(url, keys.credentials("w0"))
        keys.renew("server")
        keys.pair("server").load(context)
        with capture_logs() as logs:
            assert await ask(url, keys.credentials("w0")) == {"ok": True}
        assert lines(logs) == []


def client_that_shows_nothing(url, keys):
    context = tls.for_client(keys.ca)
    host, port = url.removeprefix("https://").split(":")
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=30), server_hostname=host)


def flood(connected):
    """Send until the other side closes; what it has told."""
    with connected, contextlib.suppress(ConnectionError):
        while True:
            try:
                connected.sendall(bytes(65536))
            except ssl.SSLError as error:
                return error.reason
    return None


async def test_who_goes_on_after_a_refusal_is_closed(keys, monkeypatch):
    monkeypatch.setattr(arrivals, "HANDSHAKE_SECONDS", 0.5)
    async with listening(tls.for_listener(keys.pair("server"), keys.ca)) as url, asyncio.timeout(30):
        connected = await asyncio.to_thread(client_that_shows_nothing, url, keys)
        # What a client without a certificate sends is forgotten, and it is closed when its time is over.
        await asyncio.to_thread(flood, connected)


async def test_who_says_nothing_is_closed(keys, monkeypatch):
    monkeypatch.setattr(arrivals, "HANDSHAKE_SECONDS", 0.2)
    async with listening(tls.for_listener(keys.pair("server"))) as url, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("opening", [b"\x16\x03\x01\x00\x05hello", bytes(600), b"\x80\x2e\x01\x00\x02" + bytes(41)])
async def test_bytes_that_are_no_tls(opening, keys):
    async with listening(tls.for_listener(keys.pair("server"))) as url, asyncio.timeout(30):
        with capture_logs() as logs:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(opening)
            writer.write_eof()
            await reader.read()
            writer.close()
            assert await ask(url, keys.credentials("w0")) == {"ok": True}
        assert {reason for reason, _ in lines(logs)} <= {"strange"}


def test_the_log_is_told_of_a_kind_once_in_a_while():
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    with capture_logs() as logs:
        for _ in range(1000):
            refusals.tell("strange", "a")
        refusals.tell("certificate", "b")
        now[0] = QUIET_SECONDS
        refusals.tell("strange", "c")
    assert [(line["reason"], line["detail"], line["times"]) for line in logs] == [
        ("strange", "a", 1),
        ("certificate", "b", 1),
        ("strange", "c", 1000),
    ]


def test_nothing_below_tls_1_2_is_spoken(keys):
    assert tls.for_listener(keys.pair("server")).minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls.for_client().minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls.for_client().verify_mode is ssl.CERT_REQUIRED
