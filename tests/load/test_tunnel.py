"""The slow network between DDP's ranks: where packets go and when, and that a real connection feels it."""

import subprocess
import sys

import pytest

from tests.end_to_end.commands import ROOT, Commands
from tests.load import tunnel
from tests.load.proxy import BURST_BYTES, QUEUE_BYTES, Link
from tests.load.tunnel import Router

RATE = 1e6


def packet(target, nbytes=1000):
    """An IPv4 packet for a rank, as far as a router looks."""
    head = bytearray(20)
    head[0] = 0x45
    head[16:20] = bytes([10, 213, 77, 1 + target])
    return bytes(head) + bytes(nbytes - len(head))


def router(delay_seconds=0.05):
    return Router([Link(RATE, 0.0) for _ in range(3)], [Link(RATE, 0.0) for _ in range(3)], delay_seconds)


def test_a_packet_comes_after_the_delay_to_whom_it_is_for():
    made = router()
    made.take(10.0, 0, packet(2))
    assert made.next_seconds(10.0) == pytest.approx(0.05)
    assert list(made.due(10.04)) == []
    assert list(made.due(10.06)) == [(2, packet(2))]
    assert made.next_seconds(10.06) is None


def test_packets_keep_their_order():
    made = router()
    sent = [packet(1, 100 + number) for number in range(20)]
    for one in sent:
        made.take(0.0, 0, one)
    assert [got for _, got in made.due(1.0)] == sent


@pytest.mark.parametrize("odd", [b"", bytes(10), b"\x60" + bytes(60), packet(7), packet(-1)])
def test_what_is_for_nobody_is_dropped(odd):
    made = router()
    made.take(0.0, 0, odd)
    assert made.next_seconds(0.0) is None


def test_the_rate_is_that_of_the_link_and_the_queue_has_an_end():
    made = router()
    count = 3 * QUEUE_BYTES // 1000
    for _ in range(count):
        made.take(0.0, 0, packet(1))
    in_time = sum(1 for _ in made.due(0.05 + 0.1))
    assert in_time * 1000 == pytest.approx(0.1 * RATE + BURST_BYTES, rel=0.05)
    left = sum(1 for _ in made.due(60.0))
    assert (in_time + left) * 1000 == pytest.approx(QUEUE_BYTES, rel=0.05)


def test_two_senders_share_the_way_to_one():
    made = router()
    for source in (0, 1):
        for _ in range(100):
            made.take(0.0, source, packet(2))
    in_time = sum(1 for _ in made.due(0.05 + 0.05))
    assert in_time * 1000 == pytest.approx(0.05 * RATE + BURST_BYTES, rel=0.05)


ASKING = """
import socket, sys, time
if sys.argv[1] == "answer":
    with socket.create_server(("0.0.0.0", 7000)) as server:
        print("listens", flush=True)
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(100))
else:
    with socket.create_connection(("10.213.77.1", 7000)) as connection:
        began = time.monotonic()
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        print(time.monotonic() - began)
"""


@pytest.mark.skipif(tunnel.why_not() is not None, reason=f"no tunnel here: {tunnel.why_not()}")
@pytest.mark.e2e
def test_a_connection_between_namespaces_has_the_delay_twice(tmp_path):
    with tunnel.namespaces(2) as (first, second), Commands(tmp_path) as running:
        routing = running.python("tunnel", "-m", "tests.load.tunnel", first, second, "--delay", "0.1")
        routing.hear("ready")
        inside = ["ip", "netns", "exec"]
        answering = [*inside, first, sys.executable, "-c", ASKING, "answer"]
        asking = [*inside, second, sys.executable, "-c", ASKING, "ask"]
        with subprocess.Popen(answering, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
            try:
                assert server.stdout.readline() == "listens\n"
                asked = subprocess.run(asking, capture_output=True, text=True, timeout=30, check=False)
                assert asked.returncode == 0, asked.stderr
                assert float(asked.stdout) >= 0.2
            finally:
                server.kill()
    assert not {first, second} & set(tunnel._ours())
