"""What credentials cost: TLS on bodies, beside the plain exchange and the cipher alone; a token on small ones.

The one rule: the keys are those that `ps-keys` makes, and both sides are processes as users start them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from leeway.ps.keys.cluster import Cluster
from leeway.transport.credentials.tls import now
from tests.bench.contest import Comparison, Samples, take_turns
from tests.bench.peers import peer
from tests.bench.results import Section
from tests.bench.server import server
from tests.bench.wire import BODY_BYTES, SMALL_REQUESTS, clients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.peers import Peer

# As much as a record of TLS has at most (RFC 8446, 5.1).
RECORD_BYTES = 2**14

HOST = "127.0.0.1"


@contextmanager
def keys() -> Iterator[Cluster]:
    """Of a server on this machine and one worker, w0."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "cluster", now())
        cluster.make([HOST], ["w0"], 1)
        yield cluster


def encrypted(rounds: int) -> Section:
    section = Section(
        "100 MiB under TLS",
        "`ps-serve` with `--tls-cert` and a worker that believes its authority, beside the same without TLS, in turns."
        " The bound is 1 / (1 / plain + 1 / AES-256-GCM): what an exchange could reach that does nothing more than the"
        f" plain one and the cipher, records of {RECORD_BYTES // 1024} KiB on one core, behind one another.",
    )
    with keys() as made, clients("single", 1) as plain:
        folder = made.folder / "server"
        flags = ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))
        with clients("single", 1, flags, ca=made.folder / "ca.pem") as tls:
            plain.warm_up()
            tls.warm_up()
            found = take_turns(
                {"plain": plain.push_and_pull, "tls": tls.push_and_pull, "cipher": _cipher}, rounds, warm_up_rounds=1
            )
    cipher = found["cipher"]["rate"]
    for direction in ("push", "pull"):
        both = zip(found["plain"][direction].values, cipher.values, strict=True)
        bound = Samples(tuple(1 / (1 / rate + 1 / of_cipher) for rate, of_cipher in both))
        ours = found["tls"][direction]
        section.comparisons += [
            Comparison(f"{direction} under TLS", "GB/s", ours, "the bound", bound, 0.6),
            Comparison(f"{direction} under TLS", "GB/s", ours, "plain", found["plain"][direction]),
        ]
    section.comparisons.append(
        Comparison("plain push", "GB/s", found["plain"]["push"], "AES-256-GCM, one core", cipher)
    )
    return section


def with_a_token(rounds: int) -> Section:
    section = Section(
        "4 KiB with a token",
        f"Medians of {SMALL_REQUESTS} pulls and pushes of a model of 4 KiB, one after another on one connection: with a"
        " token, which the server looks up at every request and checks for the rank, and without.",
    )
    with keys() as made, ExitStack() as stack:
        flags = ("--mode", "async", "--lr", "0.001")
        tokens = ("--tokens", str(made.folder / "server" / "tokens.toml"))
        token = str(made.folder / "workers" / "w0" / "token")
        asked = {}
        for name, more, file in (("open", (), ""), ("token", tokens, token)):
            serving = stack.enter_context(server(*flags, *more))
            asked[name] = stack.enter_context(peer("tests.bench.exchanging", serving.url, "w0", "small", file))

        def medians(client: Peer) -> dict[str, float]:
            answer = client.ask(count=SMALL_REQUESTS)
            return {direction: 1e6 * statistics.median(answer[direction]) for direction in ("push", "pull")}

        found = take_turns({name: lambda client=client: medians(client) for name, client in asked.items()}, rounds)
    for direction, goal in (("push", 1.05), ("pull", None)):
        ours, theirs = found["token"][direction], found["open"][direction]
        section.comparisons.append(
            Comparison(f"{direction}, p50, with a token", "us", ours, "without", theirs, goal, fewer=True)
        )
    return section


def _cipher() -> dict[str, float]:
    """GB/s of the cipher that both sides choose, on one core."""
    cipher, nonce, record = AESGCM(os.urandom(32)), os.urandom(12), os.urandom(RECORD_BYTES)
    began = time.perf_counter()
    for _ in range(BODY_BYTES // RECORD_BYTES):
        cipher.encrypt(nonce, record, None)
    return {"rate": BODY_BYTES / (time.perf_counter() - began) / 1e9}
