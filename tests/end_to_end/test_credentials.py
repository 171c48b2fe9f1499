"""A server with TLS, mutual TLS and tokens, and what comes to it: those who are known, and each kind of those who are
not; each is told once, at once, on the side that can mend it."""

import json
import os
import re
import signal
import socket
import time

import pytest
import torch

import leeway
from leeway.errors import SettingError
from leeway.protocol.rights import Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.credentials import Credentials
from leeway.transport.credentials.tokens import Entry
from tests.end_to_end.commands import RUN_SECONDS, SMALL
from tests.end_to_end.guarded import FILES, Cluster, flags_of
from tests.guarantees import judge, read
from tests.load.forks import fork, warm_up
from tests.transport.credentials.clusters import Keys

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm_up()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys") / "cluster", ("w0", "w1", "w2"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("others") / "cluster")


@pytest.fixture(scope="module")
def guarded(keys, tmp_path_factory):
    with Cluster(keys, tmp_path_factory.mktemp("guarded")) as cluster:
        yield cluster


def wrong_token(keys, others):
    return ["--token-file", others.of("w0") / "token", *flags_of(keys, "w0", "--token-file")], {}


def token_of_another_rank(keys, others):
    return flags_of(keys, "w1"), {}


def no_token(keys, others):
    return flags_of(keys, "w0", "--token-file"), {}


def reader(keys, others):
    return flags_of(keys, "reader"), {}


def no_certificate(keys, others):
    return flags_of(keys, "w0", "--cert", "--key"), {}


def another_certificate(keys, others):
    folder = others.of("w0")
    return [*flags_of(keys, "w0", "--cert", "--key"), "--cert", folder / "cert.pem", "--key", folder / "key.pem"], {}


def another_authority(keys, others):
    return ["--ca", others.ca, *flags_of(keys, "w0", "--ca")], {}


def no_authority(keys, others):
    return flags_of(keys, "w0", "--ca"), {}


def plain(keys, others):
    return flags_of(keys, "w0"), {"url": lambda url: url.replace("https:", "http:")}


def half_a_pair(keys, others):
    return flags_of(keys, "w0", "--key"), {}


def no_such_file(keys, others):
    return [*flags_of(keys, "w0", "--token-file"), "--token-file", "nowhere"], {}


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        (wrong_token, 1, "this token is not, or no longer, known here"),
        (token_of_another_rank, 1, "the token w1 is for w1, and not for rank w0"),
        (no_token, 1, "this server asks for a token"),
        (reader, 1, "this needs the right worker, and the token reader has reader"),
        (
            no_certificate,
            2,
            "does not take the certificate of this side: certificate required; give one with",
        ),
        (another_certificate, 2, "does not take the certificate of this side: unknown ca"),
        (another_authority, 2, "is not to be trusted: "),
        (no_authority, 2, "is not to be trusted: "),
        (plain, 1, "this address is encrypted: it begins with https://"),
        (half_a_pair, 2, "there is a certificate alone: give the other one too (PS_TLS_KEY)"),
        (no_such_file, 2, "File 'nowhere' does not exist"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_worker_that_is_not_let_in_is_told_at_once(how, code, words, guarded, keys, others):
    shown, more = how(keys, others)
    url = more["url"](guarded.url) if more else None
    before = guarded.reader.status()["workers"]
    worker = guarded.work("w0", shown=shown, url=url, name=how.__name__)
    said = guarded.wait(worker, code)
    assert sum(words in line for line in said.splitlines()) == 1, said
    assert "Traceback" not in said
    assert "waiting for the server" not in said, "what does not pass is not waited out"
    assert guarded.reader.status()["workers"] == before
    assert not [what for what, secret in (keys.secrets() | others.secrets()).items() if secret in said]


def test_what_the_server_says_of_those(guarded, keys, others):
    """One line of a kind, however many there are."""
    for _ in range(3):
        shown, _ = no_certificate(keys, others)
        guarded.wait(guarded.work("w0", shown=shown, name="again"), 2)
    lines = [json.loads(line) for line in guarded.said(guarded.server).splitlines() if line.startswith("{")]
    reasons = [line["reason"] for line in lines if line["event"] == "a connection was refused"]
    assert "no certificate" in reasons
    assert len(reasons) == len(set(reasons))


def test_a_token_in_an_address_is_refused_and_not_logged(guarded, keys):
    token = (keys.of("reader") / "token").read_text().strip()
    for path in (f"/v1/status?access_token={token}", f"/v1/status?x={token}", f"/v1/params?token={token}"):
        status, _, body = guarded.reader.request("GET", path)
        assert (status, json.loads(body)["code"]) == (400, "malformed-request")
        assert "a token in an address stands in logs" in json.loads(body)["detail"]
        assert token not in body.decode()
    assert token not in guarded.said(guarded.server)


def shared(path):
    path.chmod(0o644)


def emptied(path):
    path.write_text("")


def cut(path):
    path.write_text("[w0\n")


def invented(path):
    path.write_text(path.read_text().replace('rights = ["admin"]', 'rights = ["king"]'))


def gone(path):
    path.unlink()


BAD_TOKENS = [
    (shared, "can be read by others (mode 0644): chmod 600"),
    (emptied, "has no token: with it nobody would get in"),
    (cut, "is not valid TOML"),
    (invented, "there is no right 'king'; there are reader, worker, device, admin"),
    (gone, "tokens.toml: No such file or directory"),
]


def test_what_is_read_anew_counts_and_what_cannot_be_read_does_not(tmp_path):
    keys = Keys(tmp_path / "cluster")
    keys.end("server")
    path = keys.of("server") / "tokens.toml"
    whole = path.read_text()
    with Cluster(keys, tmp_path, client_ca=False) as cluster:
        assert "it has ended: ps-keys renew makes another, and SIGHUP has this server take it" in cluster.hear("SIGHUP")
        worker = cluster.work("w0", shown=flags_of(keys, "w0"), name="early")
        assert "certificate has expired; whoever runs it has to renew it" in cluster.wait(worker, 2)

        keys.renew("server")
        os.kill(cluster.server.pid, signal.SIGHUP)
        cluster.hear("tokens and certificate were read anew")
        assert cluster.reader.status()["workers"] == []

        for times, (spoil, words) in enumerate(BAD_TOKENS, start=1):
            spoil(path)
            os.kill(cluster.server.pid, signal.SIGHUP)
            said = cluster.hear("the old tokens and certificates go on to count", times)
            assert words in json.loads(said.splitlines()[-1])["detail"]
            assert cluster.reader.status()["workers"] == []
            path.unlink(missing_ok=True)
            path.write_text(whole)
            path.chmod(0o600)

        # Whoever is in the list no more is out, in the middle of a connection.
        entry = Entry(Caller("new", frozenset({Right.READER})), tokens.digest(token := tokens.draw()))
        path.write_text(tokens.written([entry]))
        os.kill(cluster.server.pid, signal.SIGHUP)
        cluster.hear("tokens and certificate were read anew", 2)
        assert cluster.reader.request("GET", "/v1/status")[0] == 401
        assert cluster.reader.request("GET", "/v1/status", headers={"Authorization": f"Bearer {token}"})[0] == 200


@pytest.mark.parametrize(("spoil", "words"), BAD_TOKENS, ids=lambda value: getattr(value, "__name__", None))
def test_a_server_does_not_begin_with_bad_tokens(spoil, words, tmp_path):
    keys = Keys(tmp_path / "cluster")
    path = keys.of("server") / "tokens.toml"
    spoil(path)
    with fork("server", "leeway.ps.cli:main", ["--port", "0", "--tokens", str(path)], tmp_path) as server:
        server.end(RUN_SECONDS)
    said = (tmp_path / "server.err").read_text()
    assert (server.exit_code, said.count("\n")) == (2, 1), said
    assert words in said or (spoil is gone and "does not exist" in said)


def test_a_pipeline_over_tls(keys, others, tmp_path):
    history = tmp_path / "history.jsonl"
    with Cluster(keys, tmp_path, "--history", history, "--until", 60) as cluster:
        flags = ("--stages", 2, "--micro-batches", 2, "--cut", "2,1", "--pace", 0.05, "--log-level", "debug")
        stages = [
            cluster.work("w0", *flags, "--stage", stage, shown=flags_of(keys, "w0"), name=f"w0.{stage}")
            for stage in (0, 1)
        ]
        deadline = time.monotonic() + RUN_SECONDS
        while not (doors := re.findall(r"https://127[.0-9:]+", history.read_text())):
            assert time.monotonic() < deadline
            os.sched_yield()

        # A door is opened to who has a certificate of the same authority, and answers who knows the life's secret.
        for shown in (Credentials(None, keys.ca), Credentials(None, keys.ca, others.pair("w0"))):
            with pytest.raises(OSError, match=r"ALERT_(CERTIFICATE_REQUIRED|UNKNOWN_CA)"):
                ask_door(doors[0], shown, "/livez")
        assert ask_door(doors[0], keys.credentials("w1"), "/livez").startswith(b"HTTP/1.1 200")

        for stage in stages:
            said = cluster.wait(stage)
            assert "unencrypted" not in said
        cluster.wait(cluster.server)
    judge(read(history))


def ask_door(url, credentials, path):
    """As a neighbour does: by the authority alone, for a stage is wherever it runs."""
    context = credentials.to_client()
    context.check_hostname = False
    host, _, port = url.removeprefix("https://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain, context.wrap_socket(plain) as door:
        door.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return door.recv(65536)


def test_a_script_shows_what_it_is_given(guarded, keys):
    shown = {name: keys.of("w2") / file for name, file in FILES.items()}
    with leeway.connect(guarded.url, "w2", **shown) as session:
        session.attach(torch.nn.Linear(2, 1))
        assert session.skip().disposition is leeway.Disposition.SKIPPED
    with pytest.raises(SettingError, match="certificate required"):
        leeway.connect(guarded.url, "w2", token_file=shown["token_file"], ca=shown["ca"])
    with pytest.raises(leeway.WireError, match="not, or no longer, known here"):
        leeway.connect(guarded.url, "w2", **shown | {"token_file": made_up(guarded.folder)}).join()


def made_up(folder):
    path = folder / "made-up"
    path.write_text(tokens.draw())
    path.chmod(0o600)
    return path


def test_ps_launch_hands_them_to_server_and_worker(keys, commands):
    server = keys.of("server")
    launched = commands.launch(
        *(SMALL, "--workers", 1, "--steps", 3, "--mode", "async", "--tokens", server / "tokens.toml"),
        *("--tls-cert", server / "cert.pem", "--tls-key", server / "key.pem", "--tls-client-ca", server / "ca.pem"),
        *flags_of(keys, "w0"),
    )
    launched.wait()
    assert "https://127.0.0.1:" in launched.said


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        (["--ca"], "certificate in certificate chain; where its authority is one of your own, say which: PS_TLS_CA"),
        (["--cert", "--key"], "does not take the certificate of this side: certificate required; give one with"),
        (["--token-file"], "this server asks for a token"),
    ],
)
def test_ps_top_says_why_it_may_not_look(left_out, words, guarded, keys, commands):
    shown = flags_of(keys, "reader", *left_out)
    top = commands.python("top", "-m", "leeway.ps.top.cli", "--once", guarded.url, *shown)
    top.wait(code=1)
    assert (len(top.errors), top.lines) == (1, [])
    assert words in top.said
