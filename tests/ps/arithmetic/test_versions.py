import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.arithmetic.versions import MAX_LIVE_VERSIONS, Snapshot, VersionStore
from leeway.transport.memory.pool import Pool

LAYOUT = Layout.of([TensorSpec("w", (100_000,), "float32", Kind.TRAINABLE)])


def publish(store: VersionStore, number: int) -> None:
    body = store.fresh(number, LAYOUT.nbytes)
    body[:] = bytes([number % 251]) * LAYOUT.nbytes
    store.publish(Snapshot(number, LAYOUT, body.toreadonly()))


def test_before_the_first_version_there_is_the_empty_one():
    store = VersionStore(Pool())
    assert (store.current.number, store.current.body.nbytes, len(store.current.layout)) == (0, 0, 0)
    assert (store.live, store.room, store.pinned()) == (0, True, ())


def test_a_superseded_version_nobody_reads_is_free_at_once():
    pool, released = Pool(), []
    store = VersionStore(pool, lambda: released.append(store.live))
    for number in range(1, 6):
        publish(store, number)
        assert store.current.number == number
    assert store.live == 1
    assert released == [1, 1, 1, 1]
    assert pool.retained_bytes == pool.lent_bytes


def test_a_slice_of_a_body_pins_its_version():
    store = VersionStore(Pool())
    publish(store, 1)
    unsent = store.current.body[100:200]
    publish(store, 2)
    publish(store, 3)
    assert store.pinned() == (1,)
    assert bytes(unsent) == bytes([1]) * 100
    del unsent
    assert store.pinned() == ()


def test_a_published_body_cannot_be_written():
    store = VersionStore(Pool())
    publish(store, 1)
    with pytest.raises(TypeError, match="read-only"):
        store.current.body[0] = 1


def test_at_most_four_are_live_and_the_oldest_reader_is_named_first():
    store = VersionStore(Pool())
    readers = []
    for number in range(1, MAX_LIVE_VERSIONS + 1):
        assert store.room
        publish(store, number)
        readers.append(store.current.body)
    assert not store.room
    assert store.pinned() == (1, 2, 3)
    with pytest.raises(AssertionError, match="pinned"):
        store.fresh(5, LAYOUT.nbytes)
    del readers[1]
    assert store.room
    assert store.pinned() == (1, 3)


def test_a_body_dropped_without_publishing_is_free_again():
    store = VersionStore(Pool())
    publish(store, 1)
    body = store.fresh(2, LAYOUT.nbytes)
    assert store.live == 2
    del body
    assert store.live == 1
    publish(store, 2)


def test_versions_go_forward_only():
    store = VersionStore(Pool())
    publish(store, 2)
    with pytest.raises(AssertionError, match="forward"):
        publish(store, 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["publish", "read", "drop-oldest", "drop-newest"]), max_size=60))
def test_bodies_that_are_read_never_change(script):
    store = VersionStore(Pool())
    readers: list[tuple[int, memoryview]] = []
    number = 0
    for action in script:
        if action == "publish" and store.room:
            number += 1
            publish(store, number)
        elif action == "read" and number:
            readers.append((number, store.current.body[64:4096]))
        elif action == "drop-oldest" and readers:
            del readers[0]
        elif action == "drop-newest" and readers:
            del readers[-1]
        read = {version for version, _ in readers}
        assert all(set(view) == {version % 251} for version, view in readers)
        assert store.pinned() == tuple(sorted(read - {number}))
        assert store.live == len(read | ({number} if number else set())) <= MAX_LIVE_VERSIONS
