from dataclasses import replace

import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.handovers import Direction, Label
from leeway.protocol.lives import Life
from leeway.transport.credentials.bearer import Bearer
from leeway.worker.pipeline.peers import Peers

LIFE = Life("w0", 7, 2)
ADDRESSES = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")
PEERS = Peers(LIFE, 1, 3, ADDRESSES, Bearer("s3cret"), micro_batches=4, room=2, in_flight=2)
LABEL = Label(LIFE, 0, 1, 0, Direction.FORWARD, 3)


def test_a_neighbour_that_knows_the_secret():
    PEERS.check(LABEL, "Bearer s3cret")
    PEERS.check(Label(LIFE, 2, 1, 9, Direction.SHARE), "Bearer s3cret")


@pytest.mark.parametrize(
    ("label", "secret", "code", "words"),
    [
        (replace(LABEL, life=Life("w0", 7, 1)), "s3cret", Code.UNKNOWN_NEIGHBOUR, "this is stage 1 of w0#2 (epoch 7)"),
        (replace(LABEL, life=Life("w0", 6, 2)), "s3cret", Code.UNKNOWN_NEIGHBOUR, "is of w0#2 (epoch 6)"),
        (replace(LABEL, life=Life("w1", 7, 2)), "s3cret", Code.UNKNOWN_NEIGHBOUR, "is of w1#2 (epoch 7)"),
        (LABEL, "secret", Code.UNKNOWN_NEIGHBOUR, "the secret of w0#2 is another"),
        (LABEL, None, Code.UNKNOWN_NEIGHBOUR, "the secret of w0#2 is missing"),
        (replace(LABEL, sender=1, receiver=2), "s3cret", Code.UNKNOWN_NEIGHBOUR, "goes from stage 1 to 2"),
        (
            Label(LIFE, 3, 1, 0, Direction.SHARE),
            "s3cret",
            Code.UNKNOWN_NEIGHBOUR,
            "has 3 stages, and the handover goes",
        ),
        (replace(LABEL, micro_batch=4), "s3cret", Code.INVALID_VALUE, "micro-batch 4 of 4"),
    ],
)
def test_whoever_else(label, secret, code, words):
    with pytest.raises(WireError) as refused:
        PEERS.check(label, secret and f"Bearer {secret}")
    assert refused.value.code is code
    assert words in refused.value.detail
    assert "s3cret" not in str(refused.value.to_document())


@pytest.mark.parametrize(
    ("life", "later"),
    [
        (LIFE, False),
        (Life("w0", 7, 3), True),
        (Life("w0", 8, 1), True),
        (Life("w0", 6, 9), False),
        (Life("w1", 9, 9), False),
    ],
)
def test_a_life_to_come(life, later):
    assert PEERS.is_before(life) is later


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": 3}, "stage 3 is none of 3: they are numbered from 0"),
        ({"stages": 2}, "2 stages with 3 addresses"),
        ({"room": 0}, "room is 0, it must be 1 or more"),
        ({"in_flight": 0}, "in_flight is 0"),
        ({"micro_batches": 0}, "micro_batches is 0"),
    ],
)
def test_one_that_makes_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        replace(PEERS, **change)


def test_it_shows_no_secret():
    assert "s3cret" not in repr(PEERS)
    assert str(PEERS) == "stage 1 of w0#2"
