"""Stages hand things to each other over real sockets: all of it, once, in whatever order, never too much at a time."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest
import torch
from structlog.testing import capture_logs

from leeway.errors import SessionClosed, SettingError, WireError
from leeway.protocol.codes import Code
from leeway.protocol.handovers import Call, Direction, Purpose
from leeway.worker.blocking import BlockingClient
from leeway.worker.pipeline.blocking import BlockingNeighbours
from leeway.worker.pipeline.neighbours import Dropped, Unlike
from leeway.worker.session import backoff
from tests.worker.pipeline.cutting import cutting
from tests.worker.pipeline.stages import CALL, LIFE, NEXT_LIFE, SERVER, Doing, begin, handed, quiet, same, stages, until

FORWARD, BACKWARD, SHARE = Direction


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.01)


@pytest.fixture
def two():
    with stages(2) as made:
        yield made


@pytest.mark.parametrize("call", [Call(Purpose.EVALUATE, 8), Call(Purpose.TRAIN, 7), Call(Purpose.END)])
def test_calls_that_differ_are_told(two, call):
    begin(two, clock=None)
    first, second = two
    first.begin(0, call)
    second.begin(0, CALL)
    first.send(1, handed())
    with pytest.raises(Unlike, match=f"stage 0 has begun to {call}, and this stage to train in 8 micro-batches"):
        second.receive(0, FORWARD, 0)


def test_there_and_back(two):
    begin(two)
    first, second = two
    for clock in range(3):
        if clock:
            first.begin(clock, CALL)
            second.begin(clock, CALL)
        for micro_batch in range(4):
            y = handed(FORWARD, micro_batch, y=torch.randn(4, 3, 5), mask=torch.tensor([True, False]))
            first.send(1, y)
            assert same(second.receive(0, FORWARD, micro_batch), y)
            error = handed(BACKWARD, micro_batch, y=torch.randn(4, 3, 5))
            second.send(0, error)
            assert same(first.receive(1, BACKWARD, micro_batch), error)
        second.send(0, share := handed(SHARE, 0, **{"embedding.weight": torch.randn(10, 4)}))
        assert same(first.receive(1, SHARE, 0), share)
    until(lambda: second.carried.in_flight == 0)
    carried = second.carried
    assert (carried.sent, carried.received, carried.sent_again, carried.waiting) == (15, 12, 0, 0)
    until(lambda: first.carried.sent == 12)
    assert first.carried.sent_bytes == carried.received_bytes > 12 * 4 * 3 * 5 * 4
    assert carried.sending_seconds > 0


def test_three_stages_and_a_share_over_two_of_them():
    with stages(3) as (first, middle, last):
        begin([first, middle, last])

        def pass_on():
            for m in range(4):
                x = middle.receive(0, FORWARD, m).tensors["x"]
                middle.send(2, handed(FORWARD, m, x=x + 1))
            for m in range(4):
                middle.send(0, handed(BACKWARD, m, x=middle.receive(2, BACKWARD, m).tensors["x"] * 2))

        passing = Doing(pass_on)
        sending = Doing(lambda: [first.send(1, handed(FORWARD, m, m)) for m in range(4)])
        for m in range(4):
            assert last.receive(1, FORWARD, m).tensors["x"][0] == m + 1
        sending.result()
        answering = Doing(lambda: [last.send(1, handed(BACKWARD, m, 10 * m)) for m in range(4)])
        last.send(0, handed(SHARE, 0, 5.0))
        assert [first.receive(1, BACKWARD, m).tensors["x"][0] for m in range(4)] == [0, 20, 40, 60]
        assert first.receive(2, SHARE, 0).tensors["x"][0] == 5
        passing.result()
        answering.result()


def test_the_order_in_which_they_come_does_not_matter(two):
    """With room for one alone: what the computing waits for comes in all the same."""
    begin(two, room=1, in_flight=8, micro_batches=8)
    for m in Random(5).sample(range(8), 8):
        two[0].send(1, handed(FORWARD, m, m))
    for m in Random(6).sample(range(8), 8):
        assert two[1].receive(0, FORWARD, m).tensors["x"][0] == m
        assert two[1].carried.waiting <= 2


def test_a_slow_receiver_holds_its_sender_up_and_not_the_other_direction(two):
    first, second = two
    begin(two, room=2, in_flight=3, micro_batches=100)
    sent = []

    def send():
        for m in range(20):
            first.send(1, handed(FORWARD, m, m, elements=200_000))
            sent.append(m)

    sending = Doing(send)
    # Two are here, three are on their way and held, the next is in hand.
    until(lambda: (second.carried.waiting, first.carried.in_flight, len(sent)) == (2, 3, 5))
    second.send(0, handed(BACKWARD, 0, 7.0))
    assert first.receive(1, BACKWARD, 0).tensors["x"][0] == 7
    assert (second.carried.waiting, first.carried.in_flight, len(sent)) == (2, 3, 5)
    for m in range(20):
        assert second.receive(0, FORWARD, m).tensors["x"][0] == m
        assert second.carried.waiting <= 2
        assert len(sent) <= m + 1 + 2 + 3 + 1
    sending.result()
    assert first.carried.sent_again == 0


def test_an_answer_that_was_lost(two):
    first, second = two
    with cutting(second.address) as proxy:
        proxy.replies = 3
        begin(two, addresses=[first.address, proxy.url])
        with capture_logs() as logs:
            for m in range(4):
                first.send(1, handed(FORWARD, m, m))
            assert [second.receive(0, FORWARD, m).tensors["x"][0] for m in range(4)] == [0, 1, 2, 3]
            until(lambda: first.carried.in_flight == 0)
        assert (second.carried.received, first.carried.sent_again, second.carried.waiting) == (4, 3, 0)
    assert logs[0]["event"] == "a neighbour is away"


@pytest.mark.parametrize("after_bytes", [10, 1000, 500_000])
def test_a_request_that_was_cut_off(two, after_bytes):
    first, second = two
    with cutting(second.address) as proxy:
        proxy.requests, proxy.after_bytes = 3, after_bytes
        begin(two, addresses=[first.address, proxy.url])
        first.send(1, whole := handed(FORWARD, 0, x=torch.randn(300_000)))
        assert same(second.receive(0, FORWARD, 0), whole)
        until(lambda: first.carried.in_flight == 0)
    assert (first.carried.sent_again, second.carried.received) == (3, 1)


def test_what_is_sent_twice_is_taken_once(two):
    """As another implementation may do, or one that was interrupted."""
    first, second = two
    begin(two)
    for _ in range(3):
        first.send(1, handed(FORWARD, 0, 1.0))
    assert second.receive(0, FORWARD, 0).tensors["x"][0] == 1
    first.send(1, handed(FORWARD, 0, 2.0))
    until(lambda: first.carried.sent == 4)
    assert (second.carried.received, second.carried.waiting) == (1, 0)


def test_a_neighbour_that_comes_up_late(two):
    first, _ = two
    with stages(1) as (late,):
        address = late.address
    first.begin_life(LIFE, 0, 2, [first.address, address], "s", micro_batches=2, room=1)
    first.begin(0, CALL)
    with capture_logs() as logs:
        first.send(1, handed())
        until(lambda: first.carried.sent_again >= 3)
        with stages(1, port=int(address.rpartition(":")[2])) as (late,):
            # It is there, and knows nothing of a life yet.
            late.begin_life(LIFE, 1, 2, [first.address, address], "s", micro_batches=2, room=1)
            late.begin(0, CALL)
            assert same(late.receive(0, FORWARD, 0), handed())
            until(lambda: first.carried.in_flight == 0)
    assert [row["event"] for row in logs] == ["a neighbour is away", "a neighbour is back"]
    assert (logs[0]["stage"], logs[0]["address"]) == (1, address)


def test_one_that_comes_to_the_life_and_to_the_iteration_later(two):
    """What is for it waits at its door."""
    first, second = two
    first.begin_life(LIFE, 0, 2, [first.address, second.address], "s", micro_batches=2, room=2)
    first.begin(4, CALL)
    first.send(1, handed(FORWARD, 0, 4.0))
    second.begin_life(LIFE, 1, 2, [first.address, second.address], "s", micro_batches=2, room=2)
    second.begin(3, CALL)
    second.begin(4, CALL)
    assert second.receive(0, FORWARD, 0).tensors["x"][0] == 4
    first.begin(5, CALL)
    first.send(1, handed(FORWARD, 0, 5.0))
    second.begin(5, CALL)
    assert second.receive(0, FORWARD, 0).tensors["x"][0] == 5
    assert first.carried.sent_again == 0


def test_what_is_of_an_iteration_that_is_over_is_taken_and_forgotten(two):
    first, second = two
    begin(two)
    second.begin(1, CALL)
    first.send(1, handed())
    until(lambda: first.carried.sent == 1)
    assert (second.carried.received, second.carried.waiting) == (0, 0)


def test_what_was_not_received_in_its_iteration_is_forgotten(two):
    first, second = two
    begin(two)
    first.send(1, handed(FORWARD, 0, 1.0))
    until(lambda: second.carried.waiting == 1)
    first.begin(1, CALL)
    second.begin(1, CALL)
    assert second.carried.waiting == 0
    first.send(1, handed(FORWARD, 0, 2.0))
    assert second.receive(0, FORWARD, 0).tensors["x"][0] == 2


class TestDropping:
    def test_whoever_waits_is_told(self, two):
        first, second = two
        begin(two, room=1, in_flight=1)
        receiving = Doing(lambda: second.receive(0, SHARE, 0))
        sending = Doing(lambda: [first.send(1, handed(FORWARD, m)) for m in range(4)])
        until(lambda: (second.carried.waiting, first.carried.in_flight) == (1, 1))
        second.drop("stage 0 was lost")
        first.drop("stage 1 was lost")
        with pytest.raises(Dropped, match=r"^stage 0 was lost$"):
            receiving.result()
        with pytest.raises(Dropped, match=r"^stage 1 was lost$"):
            sending.result()
        until(lambda: (second.carried.waiting, first.carried.in_flight) == (0, 0))
        for stage in two:
            for call in (
                lambda stage=stage: stage.receive(0, FORWARD, 0),
                lambda stage=stage: stage.send(1, handed()) if stage is first else stage.send(0, handed(BACKWARD)),
                lambda stage=stage: stage.begin(1, CALL),
            ):
                with pytest.raises(Dropped, match="was lost"):
                    call()

    def test_the_next_life_knows_nothing_of_the_one_before(self, two):
        first, second = two
        begin(two)
        first.send(1, handed(FORWARD, 0, 1.0))
        until(lambda: second.carried.waiting == 1)
        for stage in two:
            stage.drop("stage 1 was replaced")
        begin(two, NEXT_LIFE, secret="another")
        assert second.carried.waiting == 0
        first.send(1, handed(FORWARD, 0, 2.0))
        assert second.receive(0, FORWARD, 0).tensors["x"][0] == 2

    def test_only_of_that_life(self, two):
        begin(two)
        begin(two, NEXT_LIFE)
        two[1].drop("what comes too late", LIFE)
        two[0].send(1, handed())
        assert same(two[1].receive(0, FORWARD, 0), handed())
        two[1].drop("stage 0 was lost", NEXT_LIFE)
        with pytest.raises(Dropped, match="stage 0 was lost"):
            two[1].receive(0, FORWARD, 1)

    def test_a_life_that_begins_ends_the_one_before(self, two):
        begin(two)
        waiting = Doing(lambda: two[1].receive(0, FORWARD, 0))
        until(lambda: two[1]._there._door.boxes._wanted)
        begin(two, NEXT_LIFE)
        with pytest.raises(Dropped, match="the next life of this replica has begun"):
            waiting.result()

    def test_in_the_middle_of_a_body(self, two):
        first, second = two
        with cutting(second.address) as proxy:
            begin(two, addresses=[first.address, proxy.url])
            first.send(1, handed(FORWARD, 0, elements=20_000_000))
            until(lambda: second._there._door._receiving)
            second.drop("stage 0 was lost")
            first.drop("stage 1 was lost")
            until(lambda: first.carried.in_flight == 0 and not second._there._door._receiving)
        assert second.carried.received == 0

    def test_before_any_life(self, two):
        two[0].drop("why not")
        with pytest.raises(Dropped, match="no life of this replica has begun yet"):
            two[0].begin(0, CALL)


class TestNeighboursThatAreNone:
    """Who is refused for what it is tries again, until the server says which life is over: one line of the log."""

    @pytest.mark.parametrize(
        ("life", "secret", "words"),
        [
            (LIFE, "right", "the secret of w0#1 is another: send the one that came with the join"),
            (NEXT_LIFE, "wrong", "this is stage 1 of w0#2 (epoch 7), and the handover is of w0#1 (epoch 7)"),
        ],
    )
    def test_of_another_life(self, two, life, secret, words):
        first, second = two
        addresses = [first.address, second.address]
        first.begin_life(LIFE, 0, 2, addresses, "wrong", micro_batches=2, room=1)
        first.begin(0, CALL)
        second.begin_life(life, 1, 2, addresses, secret, micro_batches=2, room=1)
        second.begin(0, CALL)
        with capture_logs() as logs:
            first.send(1, handed())
            until(lambda: first.carried.sent_again >= 3)
        (row,) = logs
        assert (row["event"], row["log_level"]) == ("a neighbour is away", "warning")
        assert words in row["detail"]
        assert not {"wrong", "right"} & set(str(row).replace("'", " ").split())
        assert second.carried.received == 0

    def test_a_stage_that_advertises_the_address_of_another(self, two):
        with stages(1) as (third,):
            three = [*two, third]
            begin(three, addresses=[two[0].address, third.address, third.address])
            with capture_logs() as logs:
                two[0].send(1, handed())
                until(lambda: two[0].carried.sent_again >= 1)
                quiet(two[0])
        assert (
            "this is stage 2 of w0#1, which has 3 stages, and the handover goes from stage 0 to 1" in logs[0]["detail"]
        )


class TestWhatNoAttemptWillMend:
    """It is raised to whoever computes, at the next call or while one waits."""

    def test_a_handover_that_is_too_large(self, two):
        begin(two, max_body_bytes=1024)
        first, second = two
        first.send(1, handed(FORWARD, 0, elements=256))
        assert second.receive(0, FORWARD, 0).tensors["x"].numel() == 256
        waiting = Doing(lambda: first.receive(1, BACKWARD, 0))
        first.send(1, handed(FORWARD, 1, elements=2_000_000))
        with pytest.raises(WireError, match="the limit here is") as refused:
            waiting.result()
        assert refused.value.code is Code.BODY_TOO_LARGE
        with pytest.raises(WireError, match="the limit here is"):
            first.send(1, handed(FORWARD, 2))

    def test_a_micro_batch_that_there_is_not(self, two):
        begin(two, micro_batches=2)
        two[0].send(1, handed(FORWARD, 2))
        with pytest.raises(WireError, match="micro-batch 2 of 2: they are numbered from 0"):
            two[0].receive(1, BACKWARD, 0)

    def test_an_address_where_something_else_is_served(self, two, unused):
        begin(two, addresses=[two[0].address, unused])
        two[0].send(1, handed())
        with pytest.raises(SettingError, match=r"does not answer in HTTP/1\.1"):
            two[0].receive(1, BACKWARD, 0)

    @pytest.fixture
    def unused(self):
        """Something that says hello to whoever comes, as mail servers do."""

        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve():
                try:
                    while True:
                        there, _ = listening.accept()
                        there.sendall(b"220 hello\r\n")
                        while there.recv(65536):
                            pass
                        there.close()
                except OSError:
                    pass

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)

    def test_the_next_life_is_another(self, two):
        begin(two, micro_batches=2)
        two[0].send(1, handed(FORWARD, 2))
        with pytest.raises(WireError):
            two[0].receive(1, BACKWARD, 0)
        begin(two, NEXT_LIFE)
        two[0].send(1, handed(FORWARD, 2))
        assert same(two[1].receive(0, FORWARD, 2), handed(FORWARD, 2))


def test_iterations_follow_one_another(two):
    begin(two, clock=3)
    for clock in (3, 2):
        with pytest.raises(ValueError, match=f"iteration {clock} cannot begin: 3 has"):
            two[0].begin(clock, CALL)


class TestRounding:
    def test_activations_and_errors_travel_in_half_the_bytes_and_come_back_as_they_were(self):
        with stages(2, wire_dtype="bfloat16") as (first, second):
            begin([first, second])
            x = torch.randn(1000, 10, dtype=torch.float32)
            first.send(1, handed(FORWARD, 0, x=x))
            received = second.receive(0, FORWARD, 0).tensors["x"]
            assert received.dtype == torch.float32
            assert torch.equal(received, x.bfloat16().float())
            assert second.carried.received_bytes < 0.52 * x.nbytes
            second.send(0, handed(SHARE, 0, x=x))
            assert torch.equal(first.receive(1, SHARE, 0).tensors["x"], x), "a share of a gradient is not rounded"

    def test_each_side_may_choose(self):
        with stages(1) as (first,), stages(1, wire_dtype="bfloat16") as (second,):
            begin([first, second])
            x = torch.randn(10, dtype=torch.float64)
            first.send(1, handed(FORWARD, 0, x=x))
            assert torch.equal(second.receive(0, FORWARD, 0).tensors["x"], x)
            second.send(0, handed(BACKWARD, 0, x=x))
            assert torch.equal(first.receive(1, BACKWARD, 0).tensors["x"], x.bfloat16().double())

    def test_to_nothing_else(self):
        client = BlockingClient(SERVER, "w0")
        with pytest.raises(ValueError, match="wire_dtype is 'float16', it must be 'bfloat16' or None"):
            BlockingNeighbours(client, SERVER, wire_dtype="float16")
        client.close()


class TestClosing:
    @pytest.fixture(autouse=True)
    def _debug(self, monkeypatch):
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")

    def test_everything_ends(self):
        """With handovers under way, held at a door, in boxes, and somebody who waits."""
        with stages(2) as (first, second):
            begin([first, second], room=1, in_flight=4)
            loops = [stage._there.loop for stage in (first, second)]
            assert all(loop.get_debug() for loop in loops)
            for m in range(4):
                first.send(1, handed(FORWARD, m, elements=500_000))
            until(lambda: second.carried.waiting == 1)
            waiting = Doing(lambda: first.receive(1, BACKWARD, 0))
            for stage in (first, second):
                stage._client.close()
        with pytest.raises(SessionClosed):
            waiting.result()
        for loop in loops:
            assert loop.is_closed()
            assert not asyncio.all_tasks(loop)
        assert not [thread for thread in threading.enumerate() if thread.name == "leeway"]
        first.drop("once more, when all is over")
        with pytest.raises(SessionClosed):
            first.send(1, handed())

    def test_nobody_refers_to_it_any_more(self):
        client = BlockingClient(SERVER, "w0")
        neighbours = BlockingNeighbours(client, SERVER)
        thread = client._background.thread
        del client, neighbours
        gc.collect()
        thread.join(10)
        assert not thread.is_alive()

    def test_a_port_that_is_in_use(self, two):
        port = int(two[0].address.rpartition(":")[2])
        client = BlockingClient(SERVER, "w0")
        with pytest.raises(SettingError, match=f"the port {port} at 127.0.0.1, .* cannot be had: it is in use"):
            BlockingNeighbours(client, SERVER, port=port)
        client.close()


PROGRAM = """
import os, sys
from leeway.protocol.handovers import Direction
from leeway.worker.pipeline.neighbours import Dropped
from tests.worker.pipeline.stages import *
with stages(2) as made:
    pass
client = [BlockingClient(SERVER, "w0") for _ in range(2)]
made = [BlockingNeighbours(one, SERVER) for one in client]
begin(made)
made[0].send(1, handed())
"""

FORKS = """
pid = os.fork()
if not pid:
    made[0].drop("the child's")
    try:
        made[0].send(1, handed())
    except RuntimeError as error:
        os._exit(7 if "forked from" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
pid = os.fork()
if not pid:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
"""

WORKS = """
assert same(made[1].receive(0, Direction.FORWARD, 0), handed())
print("done", flush=True)
"""


@pytest.mark.parametrize("between", ["", FORKS], ids=["an exit", "forks"])
def test_the_end_of_a_process_waits_for_nobody(between):
    """A receive that waits, sends that are under way: an exit without a word ends them."""
    end = """
waiting = Doing(lambda: made[1].receive(0, Direction.FORWARD, 5))
made[0].send(1, handed(Direction.FORWARD, 1))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM + between + WORKS + end],
        cwd=Path(__file__).parents[3],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.partition("\n")[0], done.stderr) == (0, "done", "")
