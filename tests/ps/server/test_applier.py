"""The applier: one job after another, results on the loop, stalls and failures."""

import asyncio
import threading
from functools import partial

import pytest

from leeway.ps.server.applier import INLINE_BYTES, Applier, Job

LARGE = INLINE_BYTES  # runs on the thread
SMALL = INLINE_BYTES - 1  # runs on the loop


@pytest.fixture
def log():
    return []


@pytest.fixture
async def applier(log):
    room = [True]
    one = Applier(
        "default",
        asyncio.get_running_loop(),
        has_room=lambda: room[0],
        on_stall=lambda: log.append("stall"),
        on_failure=lambda error: log.append(error),
    )
    one.room = room
    yield one
    one.close()


def job(log, name, nbytes, *, makes_version=True):
    def work():
        log.append(f"{name} works")
        return name

    return Job(work, lambda result: log.append(f"{result} done"), log.append, nbytes, makes_version)


async def settled(applier):
    async with asyncio.timeout(10):
        while not applier.idle:  # noqa: ASYNC110 - the applier tells nobody
            await asyncio.sleep(0)


async def test_small_jobs_are_done_at_once(applier, log):
    applier.submit(job(log, "a", SMALL))
    assert log == ["a works", "a done"]
    assert applier.idle


async def test_large_jobs_run_on_a_thread_and_are_taken_back_on_the_loop(applier):
    seen = []
    applier.submit(
        Job(threading.get_ident, lambda ident: seen.extend([ident, threading.get_ident()]), seen.append, LARGE)
    )
    assert not applier.idle
    await settled(applier)
    worked, taken = seen
    assert taken == threading.get_ident()
    assert worked != taken


async def test_in_order_whatever_their_size(applier, log):
    for index in range(20):
        applier.submit(job(log, str(index), LARGE if index % 3 else SMALL))
    await settled(applier)
    assert log == [line for index in range(20) for line in (f"{index} works", f"{index} done")]


async def test_a_result_is_taken_before_the_next_job_starts(applier, log):
    def follow(result):
        log.append("first done")
        applier.submit(job(log, "third", SMALL))

    applier.submit(Job(lambda: log.append("first works"), follow, log.append, LARGE))
    applier.submit(job(log, "second", SMALL))
    await settled(applier)
    assert log == ["first works", "first done", "second works", "second done", "third works", "third done"]


async def test_without_room_a_version_waits_and_says_so(applier, log):
    applier.room[0] = False
    applier.submit(job(log, "a", SMALL))
    applier.submit(job(log, "b", SMALL))
    assert set(log) == {"stall"}
    assert not applier.idle
    log.clear()
    applier.room[0] = True
    applier.go_on()
    assert log == ["a works", "a done", "b works", "b done"]


async def test_what_makes_no_version_needs_no_room_but_keeps_its_place(applier, log):
    applier.room[0] = False
    applier.submit(job(log, "save", SMALL, makes_version=False))
    assert log == ["save works", "save done"]
    log.clear()
    applier.submit(job(log, "step", SMALL))
    applier.submit(job(log, "save", SMALL, makes_version=False))
    assert set(log) == {"stall"}


SIZES = pytest.mark.parametrize("nbytes", [SMALL, LARGE], ids=["inline", "thread"])


def fail(error):
    raise error


@SIZES
async def test_a_job_that_fails_is_taken_back_and_the_next_one_starts(applier, log, nbytes):
    error = MemoryError("no more")
    applier.submit(Job(partial(fail, error), log.append, lambda raised: log.append(("failed", raised)), nbytes))
    applier.submit(job(log, "next", nbytes))
    await settled(applier)
    assert log == [("failed", error), "next works", "next done"]


@SIZES
async def test_the_asker_of_a_job_that_fails_gets_what_it_raised(applier, log, nbytes):
    with pytest.raises(KeyError, match="no such state"):
        await applier.result_of(partial(fail, KeyError("no such state")), nbytes)
    assert await applier.result_of(lambda: 7, nbytes) == 7
    assert log == []


async def test_an_asker_that_is_gone_is_not_told(applier):
    gone = applier.result_of(partial(fail, MemoryError()), LARGE)
    gone.cancel()
    await settled(applier)


@SIZES
async def test_after_a_result_that_cannot_be_taken_nothing_is_made_any_more(applier, log, nbytes):
    error = AssertionError("a fault of ours")
    applier.submit(Job(lambda: 7, lambda _: fail(error), log.append, nbytes))
    async with asyncio.timeout(10):
        while not log:  # noqa: ASYNC110 - the applier tells nobody
            await asyncio.sleep(0)
    applier.submit(job(log, "next", SMALL))
    assert log == [error]


async def test_what_asks_for_room_may_fail_too(log):
    applier = Applier(
        "default",
        asyncio.get_running_loop(),
        has_room=lambda: fail(AssertionError("a fault of ours")),
        on_stall=lambda: None,
        on_failure=log.append,
    )
    applier.submit(job(log, "a", SMALL))
    assert [str(error) for error in log] == ["a fault of ours"]
    applier.close()


async def test_close_waits_for_the_job_under_way(log):
    loop = asyncio.get_running_loop()
    applier = Applier(
        "default", loop, has_room=lambda: True, on_stall=lambda: None, on_failure=lambda error: log.append(error)
    )
    started, go_on = threading.Event(), threading.Event()

    def work():
        started.set()
        assert go_on.wait(10)
        log.append("worked")

    applier.submit(Job(work, lambda result: None, log.append, LARGE))
    await asyncio.to_thread(started.wait, 10)
    go_on.set()
    applier.close()
    assert log == ["worked"]
