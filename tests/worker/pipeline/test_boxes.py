import contextlib

from leeway.protocol.handovers import Direction
from leeway.worker.pipeline.boxes import Boxes

FORWARD, BACKWARD, SHARE = Direction


def filled(boxes, *keys):
    for key in keys:
        with boxes.coming(key):
            boxes.put(key, str(key))
    return boxes


def test_room_is_each_senders_and_each_directions():
    boxes = filled(Boxes(0, 2), (0, FORWARD, 0), (0, FORWARD, 1))
    assert not boxes.has_room((0, FORWARD, 2))
    assert all(boxes.has_room(key) for key in [(0, SHARE, 0), (2, BACKWARD, 0), (1, FORWARD, 0)])
    assert boxes.waiting == 2
    assert boxes.take((0, FORWARD, 1)) == str((0, FORWARD, 1))
    assert boxes.has_room((0, FORWARD, 2))


def test_what_is_on_its_way_in_has_its_room_and_comes_once_at_a_time():
    boxes = Boxes(0, 1)
    with boxes.coming((0, FORWARD, 0)):
        assert not boxes.has_room((0, FORWARD, 0))
        assert not boxes.has_room((0, FORWARD, 1))
    assert boxes.has_room((0, FORWARD, 1))


def test_one_that_broke_off_can_come_again():
    boxes = Boxes(0, 1)
    with contextlib.suppress(ConnectionError), boxes.coming((0, FORWARD, 0)):
        raise ConnectionError
    assert not boxes.had((0, FORWARD, 0))
    filled(boxes, (0, FORWARD, 0))
    assert boxes.had((0, FORWARD, 0))
    boxes.take((0, FORWARD, 0))
    assert boxes.had((0, FORWARD, 0))
    assert not boxes.is_here((0, FORWARD, 0))


def test_what_is_waited_for_has_room_always():
    boxes = filled(Boxes(0, 1), (0, FORWARD, 3))
    with boxes.wanting((0, FORWARD, 0)):
        assert boxes.has_room((0, FORWARD, 0))
        assert not boxes.has_room((0, FORWARD, 1))
        with boxes.coming((0, FORWARD, 0)):
            assert not boxes.has_room((0, FORWARD, 0)), "not twice"
    assert not boxes.has_room((0, FORWARD, 0))
