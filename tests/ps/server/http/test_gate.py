"""Who gets in: tokens and their rights, ranks, foreign pages and foreign names, before anything is read or done."""

import asyncio
import json

import pytest

from leeway.protocol.rights import NEEDED, Caller, Right
from leeway.ps.server.http import sessions
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry
from tests.ps.server import rawclient
from tests.ps.server.eventstream import watch
from tests.ps.server.serving import MODEL, serve

READER, WORKER, DEVICE, ADMIN = Right
RIGHTS = {"eye": READER, "w0": WORKER, "any": WORKER, "phone": DEVICE, "boss": ADMIN}
RANKS = {"w0": frozenset({"w0"})}
TOKENS = {name: tokens.draw() for name in RIGHTS}
MADE_UP = tokens.draw()
JOIN = json.dumps({"rank": "w0", "session": "s" * 32}).encode()
JSON = {"Content-Type": "application/json"}


def bearer(name):
    return {"Authorization": f"Bearer {TOKENS.get(name, name)}"}


def write(path, names=RIGHTS):
    entries = [
        Entry(Caller(name, frozenset({RIGHTS[name]}), RANKS.get(name)), tokens.digest(TOKENS[name])) for name in names
    ]
    path.write_text(tokens.written(entries))
    path.chmod(0o600)
    return path


@pytest.fixture
async def server(tmp_path):
    async with serve(mode="async", lr=1.0, tokens=write(tmp_path / "tokens.toml")) as server:
        yield server


def filled(route):
    return route.replace("{rank}", "w0").replace("{name}", "b").replace("{file}", "page.js")


@pytest.mark.parametrize(("method", "route"), list(NEEDED))
async def test_each_request_asks_for_its_right(method, route, server):
    right = NEEDED[method, route]
    for name in (None, "made up", *TOKENS):
        headers = {} if name is None else bearer(name)
        if route == "/v1/events":
            headers["Connection"] = "close"
            method = "HEAD"  # there is no end of it
        async with server.connect() as connection:
            reply = await connection.request(method, filled(route), headers=headers)
        if name == "made up":
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        elif right is None:
            assert reply.status not in (401, 403) or (method, route) == ("POST", "/v1/session")
        elif name is None:
            assert reply.status == 401
        elif Caller("", frozenset({RIGHTS[name]})).may(right):
            assert reply.status not in (401, 403), (name, reply)
        elif method == "HEAD":
            assert reply.status == 403
        else:
            reply.refused(403, "forbidden", f"needs the right {right}", f"the token {name} has {RIGHTS[name]}")


async def test_who_is_not_known_is_told_how_to_be(server):
    (await server.get("/v1/status")).refused(401, "unauthenticated", "Authorization: Bearer TOKEN", "PS_TOKEN_FILE")
    (await server.get("/v1/status", bearer("x"))).refused(401, "unauthenticated", "not, or no longer, known here")
    basic = {"Authorization": "Basic eDp5"}
    (await server.get("/v1/status", basic)).refused(401, "unauthenticated", "is sent as Authorization: Bearer")


async def test_where_there_is_nothing_those_who_are_known_are_told_so(server):
    for name in TOKENS:
        (await server.get("/v1/statsu", bearer(name))).refused(404, "not-found")
        (await server.post("/v1/status", b"{}", JSON | bearer(name))).refused(405, "method-not-allowed")
    (await server.get("/v1/statsu")).refused(401, "unauthenticated")
    (await server.post("/v1/status", b"{}", JSON)).refused(401, "unauthenticated")


async def test_nothing_of_the_body_is_read_before(server):
    async with server.connect() as connection:
        await connection.send_head("POST", "/v1/updates", {"Content-Length": str(2**40)})
        (await connection.reply()).refused(401, "unauthenticated")


async def test_a_rank_is_that_of_its_token(server):
    reply = await server.post("/v1/workers", JOIN, JSON | bearer("any"))
    reply.refused(403, "forbidden", "rank w0 has a token of its own, and any is another")
    assert not server.runtime.status()["workers"]
    reply = await server.post("/v1/workers", JOIN, JSON | bearer("w0"))
    assert reply.status == 200
    life = reply.json
    query = f"?rank=w0&epoch={life['epoch']}&incarnation={life['incarnation']}"
    assert (await server.request("DELETE", f"/v1/workers/w0{query}", headers=bearer("any"))).status == 403
    frame = rawclient.frame({"rank": "w0", "epoch": life["epoch"], "incarnation": life["incarnation"]}, MODEL)
    reply = await server.get(f"/v1/params{query}&clock=0", bearer("any"))
    reply.refused(403, "forbidden")
    assert frame
    reply = await server.get(f"/v1/params{query}&clock=0", bearer("eye"))
    reply.refused(403, "forbidden", "needs the right worker")
    other = json.dumps({"rank": "w1", "session": "t" * 32}).encode()
    reply = await server.post("/v1/workers", other, JSON | bearer("w0"))
    reply.refused(403, "forbidden", "the token w0 is for w0, and not for rank w1")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1", ""])
async def test_a_name_that_is_not_ours(host):
    async with serve(lr=1.0) as server, server.connect() as connection:
        await connection.send(f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        (await connection.reply()).refused(403, "foreign", "--allowed-host")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "10.1.2.3:8080", "ps.example", "ps.example."]
)
async def test_names_that_are(host):
    async with serve(lr=1.0, allowed_hosts=("ps.example",)) as server, server.connect() as connection:
        await connection.send(f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await connection.reply()).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://"])
async def test_a_foreign_page_may_not_ask(origin):
    async with serve(lr=1.0) as server:
        async with server.untouched():
            reply = await server.put("/v1/policy", b'{"mode": "async"}', JSON | {"Origin": origin})
            reply.refused(403, "foreign", "is not this server's")
        ours = {"Origin": "http://127.0.0.1"}  # the host as this client names it
        assert (await server.put("/v1/policy", b'{"mode": "async"}', JSON | ours)).status == 200


@pytest.mark.parametrize("query", ["token=x", "access_token=x", "a={made_up}", "{made_up}"])
async def test_a_token_in_an_address(query, server):
    query = query.format(made_up=MADE_UP)  # a name of a test is the same in every process
    reply = await server.get(f"/v1/status?{query}", bearer("eye"))
    assert MADE_UP not in reply.refused(400, "malformed-request", "have this one replaced")["detail"]


async def test_tokens_are_read_anew(server, tmp_path):
    path = tmp_path / "tokens.toml"
    write(path, ["eye"])
    assert (await server.get("/v1/status", bearer("boss"))).status == 200
    server.entrance.read_again()
    (await server.get("/v1/status", bearer("boss"))).refused(401, "unauthenticated")
    assert (await server.get("/v1/status", bearer("eye"))).status == 200
    for wrong in ("", "[", '[a]\nsha256 = "1"'):
        path.write_text(wrong)
        server.entrance.read_again()
        assert (await server.get("/v1/status", bearer("eye"))).status == 200
    path.chmod(0o644)
    server.entrance.read_again()
    path.unlink()
    server.entrance.read_again()
    assert (await server.get("/v1/status", bearer("eye"))).status == 200


# Browsers.


def login(token):
    return json.dumps({"token": token}).encode()


async def test_a_browser_logs_in_and_out(server):
    async def whoami(headers):
        return (await server.get("/v1/session", headers)).json

    assert await whoami({}) == {"name": "nobody", "rights": [], "token_asked_for": True}
    reply = await server.post("/v1/session", login(TOKENS["boss"]), JSON)
    assert reply.json == {"name": "boss", "rights": ["admin", "reader"], "token_asked_for": True}
    cookie = reply.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert TOKENS["boss"] not in cookie
    known = {"Cookie": cookie.partition(";")[0]}
    assert (await whoami(known))["name"] == "boss"
    assert (await server.get("/v1/status", known)).status == 200
    change = b'{"mode": "sync"}'
    (await server.put("/v1/policy", change, JSON | known)).refused(403, "foreign", "from this server's own page")
    assert (await server.put("/v1/policy", change, JSON | known | {"Origin": "http://127.0.0.1"})).status == 200
    server.clock.now += 3599
    assert (await server.get("/v1/status", known)).status == 200
    server.clock.now += 3601
    (await server.get("/v1/status", known)).refused(401, "unauthenticated")
    again = await server.post("/v1/session", login(TOKENS["eye"]), JSON)
    known = {"Cookie": again.headers["set-cookie"].partition(";")[0]}
    assert (await server.get("/v1/status", known)).status == 200
    ended = await server.request("DELETE", "/v1/session", headers=known | {"Origin": "http://127.0.0.1"})
    assert ended.status == 204
    (await server.get("/v1/status", known)).refused(401, "unauthenticated")


async def test_a_cookie_is_worth_no_more_than_its_token(server, tmp_path):
    reply = await server.post("/v1/session", login(TOKENS["eye"]), JSON)
    known = {"Cookie": reply.headers["set-cookie"].partition(";")[0]}
    write(tmp_path / "tokens.toml", ["boss"])
    server.entrance.read_again()
    (await server.get("/v1/status", known)).refused(401, "unauthenticated")


async def cookie_of(server, name):
    reply = await server.post("/v1/session", login(TOKENS[name]), JSON)
    return {"Cookie": reply.headers["set-cookie"].partition(";")[0]}


async def test_a_cookie_goes_with_its_token_though_another_has_the_name(server, tmp_path, monkeypatch):
    known = await cookie_of(server, "eye")
    monkeypatch.setitem(TOKENS, "eye", tokens.draw())
    write(tmp_path / "tokens.toml")
    server.entrance.read_again()
    (await server.get("/v1/status", known)).refused(401, "unauthenticated")
    assert (await server.get("/v1/status", bearer("eye"))).status == 200


async def test_a_session_ends_however_much_it_is_used(server):
    known = await cookie_of(server, "eye")
    for _ in range(16):
        assert (await server.get("/v1/status", known)).status == 200
        server.clock.now += sessions.LIFE_SECONDS / 16
    (await server.get("/v1/status", known)).refused(401, "unauthenticated")


async def test_a_second_login_ends_the_first_one(server):
    first = await cookie_of(server, "eye")
    reply = await server.post("/v1/session", login(TOKENS["boss"]), JSON | first | {"Origin": "http://127.0.0.1"})
    assert reply.json["name"] == "boss"
    (await server.get("/v1/status", first)).refused(401, "unauthenticated")


async def test_wrong_tokens_are_taken_a_few_at_a_time(server):
    for _ in range(10):
        (await server.post("/v1/session", login("leeway_made_up"), JSON)).refused(401, "unauthenticated")
    (await server.post("/v1/session", login("x"), JSON)).refused(401, "unauthenticated")
    for token in ("x", TOKENS["eye"]):
        reply = await server.post("/v1/session", login(token), JSON)
        reply.refused(429, "over-quota", "too many wrong tokens", "try again in 1 s")
        assert reply.headers["retry-after"] == "1"
    assert (await server.get("/v1/status", bearer("eye"))).status == 200
    server.clock.now += 1.0
    assert (await server.post("/v1/session", login(TOKENS["eye"]), JSON)).status == 200


# What was let in, and would not be any more.


async def test_a_stream_ends_with_its_session(server):
    known = await cookie_of(server, "eye")
    async with watch(server, known) as stream:
        await stream.greeting()
        # Who has the page open is not idle, but its time is up in the end.
        for _ in range(int(sessions.LIFE_SECONDS / 2000)):
            server.advance(2000)
            assert await stream.message() is not None
        server.advance(sessions.LIFE_SECONDS - 14 * 2000)
        assert await stream.rest() == []
    (await server.get("/v1/status", known)).refused(401, "unauthenticated")


async def test_a_stream_ends_with_the_log_out_in_another_tab(server):
    known = await cookie_of(server, "eye")
    async with watch(server, known) as stream:
        await stream.greeting()
        await server.request("DELETE", "/v1/session", headers=known | {"Origin": "http://127.0.0.1"})
        server.advance(2.0)
        assert await stream.rest() == []


async def test_who_waits_is_cut_off_with_its_token(server, tmp_path):
    """Streams, pulls that are parked and barriers alike; whoever may stay is left alone."""
    lives = {}
    for rank, name in (("w0", "w0"), ("w1", "any")):
        join = json.dumps({"rank": rank, "session": rank * 8}).encode()
        lives[rank] = (await server.post("/v1/workers", join, JSON | bearer(name))).json
    frame = rawclient.frame({}, MODEL)
    content = {"Content-Type": rawclient.FRAME}
    assert (await server.put("/v1/params", frame, content | bearer("w0"))).status == 200

    def waiting(rank):
        life = lives[rank]
        return f"/v1/params?rank={rank}&epoch={life['epoch']}&incarnation={life['incarnation']}&clock=0&min_version=9"

    wait = {"Prefer": "wait=300"}
    async with (
        server.connect() as gone,
        server.connect() as stays,
        server.connect() as reader,
        watch(server, bearer("w0")) as stream,
        watch(server, bearer("eye")) as other,
    ):
        await stream.greeting()
        await other.greeting()
        await gone.send_head("GET", waiting("w0"), wait | bearer("w0"))
        await stays.send_head("GET", waiting("w1"), wait | bearer("any"))
        await reader.send_head("GET", "/v1/params?min_version=9", wait | bearer("w0"))
        await server.until(lambda: len(server.runtime.machine.groups["default"].waiting) == 3)
        write(tmp_path / "tokens.toml", ["any", "eye"])
        server.entrance.read_again()
        for connection in (gone, reader, stream.connection):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await connection.reader.readuntil(b"never")
        await server.until(lambda: len(server.runtime.machine.groups["default"].waiting) == 1)
        server.advance(2.0)
        assert (await other.message()).event == "status"
        server.advance(300)
        assert (await stays.reply()).status == 204
    again = await server.get(waiting("w0"), wait | bearer("w0"))
    again.refused(401, "unauthenticated", "not, or no longer, known here")


async def test_what_is_read_is_for_who_has_asked(server):
    for target in ("/v1/status", "/v1/session", "/metrics", "/v1/policy", "/nowhere"):
        headers = (await server.get(target, bearer("eye"))).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("body", [b"{}", b'{"token": 1}', b'{"token": "x", "more": 1}', b"[]"])
async def test_what_is_no_login(body, server):
    assert (await server.post("/v1/session", body, JSON)).status == 400


async def test_a_login_that_is_not_known(server):
    (await server.post("/v1/session", login("leeway_made_up"), JSON)).refused(401, "unauthenticated")
    async with serve(lr=1.0) as other:
        (await other.post("/v1/session", login("x"), JSON)).refused(401, "unauthenticated")
        assert (await other.get("/v1/session")).json["name"] == "anybody"
