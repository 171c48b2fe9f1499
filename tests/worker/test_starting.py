"""`connect(start_together=N)`: nobody begins before all are there, and nobody who comes later waits for them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import leeway
from tests.worker.test_against_server import serving

pytestmark = pytest.mark.usefixtures("one_thread")


def net():
    torch.manual_seed(1)
    return nn.Linear(4, 2)


def place(session):
    return (session.index, session.count)


def train_one(session, model):
    model(torch.ones(8, 4)).sum().backward()
    session.step(samples=8)


@pytest.mark.e2e
class TestStart:
    @pytest.mark.parametrize("mode", ["sync", "async"])
    def test_the_first_batch_is_cut_for_all(self, mode):
        done = threading.Barrier(3, timeout=30)

        def work(url, rank):
            # Under `sync` the round of the first one there would be open without the others, if it had pulled.
            with leeway.connect(url, rank, start_together=3) as session:
                model = net()
                session.attach(model)
                at_start = place(session)
                train_one(session, model)
                done.wait()  # nobody leaves before all have begun
                return at_start

        with serving("--mode", mode, "--workers", "3") as (_, url), ThreadPoolExecutor(3) as pool:
            found = pool.map(work, [url] * 3, ["w0", "w1", "w2"], timeout=60)
            assert list(found) == [(0, 3), (1, 3), (2, 3)]

    def test_of_wrapped_scripts(self):
        done = threading.Barrier(2, timeout=30)

        def work(url, rank):
            model = net()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            leeway.wrap(optimizer, model, url=url, rank=rank, start_together=2)
            with optimizer.session as session:
                done.wait()
                return place(session)

        with serving("--mode", "async") as (_, url), ThreadPoolExecutor(2) as pool:
            assert list(pool.map(work, [url] * 2, ["w0", "w1"], timeout=60)) == [(0, 2), (1, 2)]

    def test_one_that_comes_back_does_not_wait_nor_after_the_server_was_resumed(self, tmp_path):
        def work(url, rank):
            with leeway.connect(url, rank, start_together=2) as session:
                model = net()
                session.attach(model)
                train_one(session, model)
                return session.clock

        flags = ("--mode", "async", "--state-dir", str(tmp_path))
        with serving(*flags) as (process, url):
            with ThreadPoolExecutor(2) as pool:
                assert list(pool.map(work, [url] * 2, ["w0", "w1"], timeout=60)) == [1, 1]
            assert work(url, "w0") > 1
            process.terminate()
            process.wait()
        with serving(*flags, "--resume") as (_, url):
            assert work(url, "w1") > 1


@pytest.mark.parametrize("together", [0, "2", 2.5])
def test_mistakes(together):
    with pytest.raises(ValueError, match="start_together is"):
        leeway.connect("http://127.0.0.1:9", "w0", start_together=together)

    def test_of_a_run_that_is_over_before_all_are_there(self):
        with serving("--until-seconds", "1") as (process, url):
            with leeway.connect(url, "w0", start_together=2) as session:
                session.attach(net())
                assert session.finished
                assert session.ending_detail == "the run has lasted for the 1 s of --until-seconds"
            assert process.wait(30) == 0
