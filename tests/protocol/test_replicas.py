from __future__ import annotations

import pytest

from leeway.errors import MalformedRequest
from leeway.protocol.fields import Fields
from leeway.protocol.lives import Life
from leeway.protocol.membership import GroupState, Join, Joined
from leeway.protocol.replicas import Place, Replica, Stage

PLACE = {"stage": 1, "stages": 4}


def test_a_place_that_says_the_least():
    assert Place.read(PLACE) == Place(1, 4)
    assert Place(1, 4).to_fields() == PLACE
    assert str(Place(1, 4)) == "stage 1 of 4"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": 4}, "'stage' is 4, it must be below 'stages' = 4"),
        ({"stage": 64, "stages": 65}, "'stage' is 64, it must be an integer from 0 to 63"),
        ({"stages": 0}, "'stages' is 0, it must be an integer from 1 to 64"),
        ({"address": 7}, "'address' is 7, it must be text of 1 to 256 characters"),
        ({"plan": {"seed": 1}}, "'seed' is 1, it must be text of 1 to 256 characters"),
        ({"plan": dict.fromkeys(map(str, range(33)), "x")}, "'plan' is .*, it must be an object of at most 32"),
        ({"notes": "x" * 65_537}, "'notes' is .*, it must be text of 1 to 65536 characters"),
        ({"keys": ["w"]}, "'keys' and 'owned' come together"),
        ({"owned": []}, "'keys' and 'owned' come together"),
        ({"keys": ["w", 7], "owned": []}, "'keys' must be a list of names of tensors"),
        ({"keys": ["w"], "owned": [""]}, "'owned' must be a list of names of tensors"),
        ({"keys": ["w"], "owned": ["b", "w"]}, "'owned' names 'b', which is not among the stage's 'keys'"),
    ],
)
def test_a_place_that_cannot_be(change, words):
    with pytest.raises(MalformedRequest, match=words):
        Place.read(PLACE | change)


def test_a_stage_without_an_address_and_notes_is_one():
    assert Stage.read({"address": None, "notes": None}) == Stage("", "")


def test_a_secret_is_in_the_reply_and_not_in_its_words():
    replica = Replica((Stage("http://a", ""), Stage("http://b", "cut")), "hush")
    assert "hush" not in repr(replica)
    joined = Joined(1, 2, False, 10.0, 0, 1, {"default": GroupState(4, "async", committed=3)}, replica=replica)
    assert "hush" not in f"{joined} {joined!r}"
    assert str(joined) == "joined #2 default@4 committed=3"
    assert joined.to_fields()["replica"]["secret"] == "hush"


def test_a_join_names_its_place_and_a_request_its_stage():
    join = Join.read(Fields({"rank": "r0", "session": "s", "place": PLACE}, "join"), 5.0)
    assert (join.place, join.wait_seconds) == (Place(1, 4), 5.0)
    assert str(join) == "join r0 session=s stage 1 of 4"
    life = Life("r0", 1, 2, stage=3)
    assert (str(life), Life.read(Fields(life.to_fields(), "life"))) == ("r0/3#2", life)
