import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.protocol.tensors import ALIGNMENT_BYTES
from leeway.transport.memory.pool import MAX_RETAINED_BUFFERS, SMALLEST_POOLED_BYTES, Pool

LARGE = 4 * SMALLEST_POOLED_BYTES


def address(buffer: memoryview) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data


@pytest.mark.parametrize("nbytes", [0, 1, 63, 4096, SMALLEST_POOLED_BYTES, LARGE + 1])
def test_a_buffer_is_exact_aligned_and_writable(nbytes):
    buffer = Pool().take(nbytes)
    assert buffer.nbytes == len(buffer) == nbytes
    assert not buffer.readonly
    assert address(buffer) % ALIGNMENT_BYTES == 0 or nbytes == 0


def test_memory_comes_back_when_the_last_reference_falls_and_is_used_again():
    pool = Pool()
    first = pool.take(LARGE)
    where = address(first)
    assert (pool.lent_bytes, pool.retained_bytes) == (LARGE, 0)
    del first
    assert (pool.lent_bytes, pool.retained_bytes) == (0, LARGE)
    assert address(pool.take(LARGE)) == where


@pytest.mark.parametrize(
    "keep",
    [
        lambda buffer: buffer[7:9],
        lambda buffer: buffer.toreadonly()[5:],
        lambda buffer: np.frombuffer(buffer, np.float32)[3:],
        lambda buffer: torch.frombuffer(buffer, dtype=torch.float32)[3:].view(-1, 1),
        lambda buffer: buffer.cast("I"),
    ],
)
def test_whatever_was_made_of_a_buffer_keeps_its_memory(keep):
    pool = Pool()
    buffer = pool.take(LARGE + 12)
    kept = keep(buffer)
    del buffer
    assert pool.retained_bytes == 0
    del kept
    assert pool.retained_bytes > 0


def test_the_array_behind_a_buffer_tells_when_it_is_free():
    events = []
    buffer = Pool().take(LARGE)
    weakref.finalize(buffer.obj, events.append, "free")
    tail = buffer[-1:]
    del buffer
    assert events == []
    del tail
    assert events == ["free"]


def test_two_in_use_never_share_memory():
    pool = Pool()
    buffers = [pool.take(LARGE) for _ in range(5)]
    assert len({address(buffer) for buffer in buffers}) == 5


def test_nearly_equal_lengths_share_memory():
    pool = Pool()
    where = address(pool.take(LARGE - 10))
    assert address(pool.take(LARGE)) == where


def test_no_more_than_the_limit_lies_idle_and_the_newest_is_kept():
    pool = Pool(retained_bytes=2 * LARGE)
    buffers = [pool.take(LARGE) for _ in range(4)]
    last = address(buffers[-1])
    while buffers:
        del buffers[0]
    assert pool.retained_bytes == 2 * LARGE
    assert address(pool.take(LARGE)) == last
    assert Pool(retained_bytes=0).take(LARGE).nbytes == LARGE


def test_the_number_of_idle_buffers_is_bounded():
    pool = Pool()
    buffers = [pool.take(SMALLEST_POOLED_BYTES) for _ in range(MAX_RETAINED_BUFFERS + 5)]
    buffers.clear()
    assert pool.retained_bytes == MAX_RETAINED_BUFFERS * SMALLEST_POOLED_BYTES
    assert pool.lent_bytes == 0


def test_small_buffers_are_not_retained():
    pool = Pool()
    pool.take(SMALLEST_POOLED_BYTES - 1)
    assert (pool.lent_bytes, pool.retained_bytes) == (0, 0)


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="-1 bytes; it must be 0 or more"):
        Pool(retained_bytes=-1)


def test_buffers_in_reference_cycles_come_back_through_the_collector():
    pool = Pool()
    cycle = [pool.take(LARGE)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert (pool.lent_bytes, pool.retained_bytes) == (0, LARGE)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
def test_what_is_held_is_never_written_by_another(script):
    pool = Pool(retained_bytes=3 * LARGE)
    held: list[tuple[int, memoryview]] = []
    for mark, (take, index) in enumerate(script):
        if take or not held:
            buffer = pool.take(LARGE)
            buffer[:8] = mark.to_bytes(8, "little")
            held.append((mark, buffer[:8]))
            del buffer
        else:
            del held[index % len(held)]
        assert all(bytes(view) == kept.to_bytes(8, "little") for kept, view in held)
        assert pool.lent_bytes == len(held) * LARGE


def test_threads_take_and_release_at_once():
    pool = Pool(retained_bytes=4 * LARGE)
    wrong = []

    def work(mark: int) -> None:
        for _ in range(300):
            buffer = pool.take(LARGE)
            buffer[:1] = bytes([mark])
            if buffer[0] != mark:
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pool.lent_bytes == 0
    assert 0 < pool.retained_bytes <= 4 * LARGE
