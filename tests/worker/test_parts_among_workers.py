"""Parts that several workers train, that end, and that a server has lost, against `ps-serve` itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

import pytest
import torch
from structlog.testing import capture_logs

import leeway
from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition
from leeway.worker.session.states import Ending
from tests.worker.gan import LOSS, PLAIN, REAL, discriminate, gan, noises, same, status
from tests.worker.test_against_server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]


def test_two_workers_share_the_parts_and_a_third_comes_late():
    """A round of each part has two members; a worker that joins later begins where the parts are."""
    with serving("--workers", "2", "--mode", "sync", *PLAIN) as (_, url):
        nets = [gan() for _ in range(2)]
        done = []

        def work(number):
            netG, netD = nets[number]
            with leeway.connect(url, f"w{number}") as session:
                session.attach({"G": netG, "D": netD})
                for noise in noises(4):
                    loss, fakes = discriminate(netG, netD, noise)
                    loss.backward()
                    session.step("D", samples=8)
                    LOSS(netD(fakes), REAL).backward()
                    session.step("G", samples=8)
                done.append((session.parts["G"].clock, session.count))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [clock for clock, _ in done] == [4, 4]
        assert same((nets[0][0], nets[1][0]), (nets[0][1], nets[1][1]))
        with leeway.connect(url, "w2") as session:
            late = gan()
            session.attach(dict(zip("GD", late, strict=True)))
            assert [part.version for part in session.parts.values()] == [5, 5]


def test_a_circle_of_waiters_is_broken_and_the_other_goes_on():
    """Both have stepped D and G; then one goes on with D, the other with G, in rounds."""
    with serving("--workers", "2", "--mode", "sync", *PLAIN) as (_, url):
        results = {}
        both_attached = threading.Barrier(2)

        def work(rank, order):
            netG, netD = gan()
            with leeway.connect(url, rank) as session:
                session.attach({"G": netG, "D": netD})
                both_attached.wait(30)
                try:
                    for name in ("D", "G", *order):
                        for parameter in (*netG.parameters(), *netD.parameters()):
                            parameter.grad = torch.ones_like(parameter)
                        session.step(name, samples=8)
                    results[rank] = session.ending, None
                except WireError as error:
                    results[rank] = session.ending, error
                    with pytest.raises(WireError, match="none of these would ever go on"):
                        session.step(order[0], samples=8)
                    assert session.finished

        threads = [threading.Thread(target=work, args=each) for each in (("w0", "DG"), ("w1", "GD"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ((ending, error),) = [result for result in results.values() if result[1]]
    assert (ending, error.code) == (Ending.DEADLOCK, Code.DEADLOCK)
    assert "w0 waits in group D for w1" in error.detail
    assert (None, None) in results.values()


def test_a_part_that_is_complete_before_the_others_is_said_once(tmp_path):
    path = tmp_path / "leeway.toml"
    path.write_text("until = 4\nlr = 0.1\n[group.D]\nuntil = 2\n")
    netG, netD = gan()
    with serving("--config", str(path)) as (process, url):
        with leeway.connect(url, "w0") as session, capture_logs() as logs:
            session.attach({"G": netG, "D": netD})
            outcomes = []
            for noise in noises(4):
                loss, fakes = discriminate(netG, netD, noise)
                loss.backward()
                outcomes.append(session.step("D", samples=8))
                assert all(parameter.grad is None for parameter in netD.parameters())
                LOSS(netD(fakes), REAL).backward()
                session.step("G", samples=8)
            assert session.finished
            # A loop asks for the end after its last part.
            assert session.step("D", samples=8).reason is Code.FINISHED
            session.pull("G")
            for part in ("D", "G"):
                with pytest.raises(ValueError, match="nothing more to push: finished"):
                    session.step(part, samples=8)
            with pytest.raises(ValueError, match="nothing more to pull: finished"):
                session.pull("D")
            assert (session.parts["D"].until, session.parts["G"].until) == (2, 4)
        assert process.wait(30) == 0
    assert [outcome.disposition for outcome in outcomes[:2]] == [Disposition.HELD] * 2
    assert [(outcome.reason, outcome.dropped) for outcome in outcomes[2:]] == [(Code.FINISHED, True)] * 2
    (line,) = [line for line in logs if line["event"].startswith("a part is complete")]
    assert line["detail"] == "it is at 2, and G (at 2) go on; [group.D] until = 0 keeps it with them"


@pytest.mark.parametrize("mode", ["sync", "async", "ssp"])
@pytest.mark.parametrize("skipping", [True, False])
def test_a_run_that_is_over_between_two_parts_ends_a_loop_that_asks_after_both(mode, skipping):
    netG, netD = gan()
    flags = ("--mode", mode, *PLAIN, "--until-metric", "loss<0.5")
    with serving(*flags) as (process, url), leeway.connect(url, "w0") as session:
        session.attach({"D": netD, "G": netG})
        dropped = []
        while not session.finished:
            for net, part in ((netD, "D"), (netG, "G")):
                net(noises(1)[0]).sum().backward()
                if skipping and len(dropped) > 1:
                    outcome = session.skip(part)
                else:
                    outcome = session.step(part, samples=8, metrics={"loss": 0.4 if part == "G" else 1.0})
                dropped.append(outcome.dropped)
        # D has been granted another iteration when the run is over, and G has not.
        assert dropped == [False, False, False, True]
        session.close()
        assert process.wait(30) == 0


def test_a_part_without_an_end_of_its_own_ends_with_the_others(tmp_path):
    path = tmp_path / "leeway.toml"
    path.write_text("until = 2\nlr = 0.1\n[group.D]\nuntil = 0\n")
    netG, netD = gan()
    with serving("--config", str(path)) as (process, url):
        with leeway.connect(url, "w0") as session:
            session.attach({"G": netG, "D": netD})
            for noise in noises(2):
                for _ in range(3):
                    discriminate(netG, netD, noise)[0].backward()
                    session.step("D", samples=8)
                LOSS(netD(netG(noise)), REAL).backward()
                session.step("G", samples=8)
            assert session.parts["G"].finished
            # The server waits for what is computed: this is the last.
            discriminate(netG, netD, noises(1)[0])[0].backward()
            assert session.step("D", samples=8).disposition is Disposition.HELD
            assert session.finished
            assert session.parts["D"].until is None
        assert process.wait(30) == 0


@pytest.mark.parametrize("resumed", [True, False])
def test_a_server_that_was_killed_has_the_parts_again(resumed, tmp_path):
    """From its checkpoint, or from what the worker holds. What was computed for the one before is dropped."""
    netG, netD = gan()
    flags = ["--mode", "async", *PLAIN, "--state-dir", str(tmp_path / "state")]

    def train(session):
        outcomes = []
        for noise in noises(3):
            for net, part in ((netD, "D"), (netG, "G")):
                net(noise).square().mean().backward()
                outcomes.append(session.step(part, samples=8).dropped)
        return outcomes

    with serving(*flags) as (process, url), leeway.connect(url, "w0") as session:
        session.attach({"G": netG, "D": netD})
        assert train(session) == [False] * 6
        urlopen(Request(f"{url}/v1/checkpoints", method="POST")).read()
        process.kill()
        process.wait()
        flags += ["--resume"] if resumed else ["--state-dir", str(tmp_path / "other")]
        with serving(*flags, port=int(url.rpartition(":")[2])):
            assert train(session) == [True, True, False, False, False, False]
            versions = {name: group["version"] for name, group in status(url)["groups"].items()}
            each = 6 if resumed else 3
            assert versions == {"default": 0, "G": each, "D": each}
            session.close()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_part_that_was_complete_goes_on_where_a_server_has_gone_back_to_before_its_end(tmp_path, wrapped):
    """Else others would wait there for a worker that never comes."""
    file = tmp_path / "leeway.toml"
    file.write_text("until = 8\n[group.D]\nuntil = 4\n")
    flags = ["--config", str(file), "--mode", "sync", "--workers", "2", "--state-dir", str(tmp_path / "state")]
    flags += () if wrapped else PLAIN

    def train(session, nets, until, barrier, optimizers):
        """Returns the iterations of D that have counted."""
        counted, seen = [], session.parts["D"].outcome
        while session.parts["G"].clock < until and not session.finished:
            for net, part in zip(nets, ("D", "G"), strict=True):
                net(noises(1)[0]).square().mean().backward()
                if wrapped:
                    optimizers[part].step()
                else:
                    session.step(part, samples=8)
                before, seen = seen, session.parts["D"].outcome
                counted += [seen.clock] if seen is not before and not seen.dropped else []
        barrier.wait(60)
        return counted

    def work(url, rank, nets, checkpoint, killed):
        with leeway.connect(url, rank) as session:
            session.attach(dict(zip(("D", "G"), nets, strict=True)))
            optimizers = {}
            for name, net in zip(("D", "G"), nets, strict=True):
                optimizers[name] = torch.optim.SGD(net.parameters(), lr=0.1)
                if wrapped:
                    session.wrap(optimizers[name])
            train(session, nets, 2, checkpoint, optimizers)
            checkpoint.wait(60)
            train(session, nets, 6, killed, optimizers)
            assert (session.parts["D"].finished, session.parts["G"].clock) == (True, 6)
            killed.wait(60)
            again = train(session, nets, 99, checkpoint, optimizers)
            return session.finished, session.parts["G"].clock, again

    checkpoint, killed = threading.Barrier(3), threading.Barrier(3)
    with serving(*flags) as (process, url), ThreadPoolExecutor(2) as threads:
        workers = [threads.submit(work, url, f"w{each}", gan()[::-1], checkpoint, killed) for each in range(2)]
        checkpoint.wait(60)
        urlopen(Request(f"{url}/v1/checkpoints", method="POST")).read()
        checkpoint.wait(60)
        killed.wait(60)
        process.kill()
        process.wait()
        with serving(*flags, "--resume", port=int(url.rpartition(":")[2])) as (again, _):
            killed.wait(60)
            checkpoint.wait(60)
            assert [worker.result() for worker in workers] == [(True, 8, [2, 3])] * 2
            assert again.wait(30) == 0


def test_who_joins_between_two_parts_is_in_step_after_an_update():
    """Not told `deadlock`: the part where it is missed goes on without it once."""
    with serving("--workers", "1", "--mode", "sync", *PLAIN) as (_, url):
        between, joined, late = threading.Event(), threading.Event(), []

        def step(session, nets, part):
            for net in nets.values():
                net(noises(1)[0]).sum().backward()
            outcome = session.step(part, samples=8)
            late.append(outcome.disposition is Disposition.LATE)
            return outcome

        def first():
            netG, netD = gan()
            nets = {"D": netD, "G": netG}
            with leeway.connect(url, "w0") as session:
                session.attach(nets)
                for iteration in range(12):
                    step(session, nets, "D")
                    if iteration == 1:
                        between.set()
                        assert joined.wait(60)
                    step(session, nets, "G")

        def second():
            netG, netD = gan()
            nets = {"D": netD, "G": netG}
            assert between.wait(60)
            with leeway.connect(url, "w1") as session:
                # The server has begun its life, though it waits for a round.
                joined.set()
                session.attach(nets)
                for _ in range(6):
                    for part in nets:
                        step(session, nets, part)

        with ThreadPoolExecutor(2) as pool:
            for work in [pool.submit(first), pool.submit(second)]:
                work.result(100)
        assert sum(late) <= 2
