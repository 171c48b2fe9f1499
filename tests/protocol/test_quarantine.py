import pytest

from leeway.errors import MalformedRequest
from leeway.protocol.fields import Fields
from leeway.protocol.quarantine import MAX_WHY, Quarantine, QuarantineState, Release


def test_there_and_back():
    assert Quarantine.read({"rank": "w0"}, Fields({"why": "mad"}, "q")) == Quarantine("w0", "mad")
    assert Quarantine("w0", "mad").to_fields() == {"why": "mad"}
    assert Release.read({"rank": "w0"}) == Release("w0")
    for state in (QuarantineState("w0"), QuarantineState("w0", "mad")):
        assert QuarantineState.read(state.to_fields()) == state


@pytest.mark.parametrize(
    ("places", "fields"),
    [
        ({"rank": ".."}, {"why": "x"}),
        ({"rank": "a b"}, {"why": "x"}),
        ({"rank": "w0"}, {}),
        ({"rank": "w0"}, {"why": ""}),
        ({"rank": "w0"}, {"why": "x" * (MAX_WHY + 1)}),
        ({"rank": "w0"}, {"why": 1}),
        ({"rank": "w0"}, {"why": "x", "until": 3}),
    ],
)
def test_what_is_refused(places, fields):
    with pytest.raises(MalformedRequest):
        Quarantine.read(places, Fields(fields, "q"))


def test_release_names_a_rank():
    with pytest.raises(MalformedRequest, match="a rank is 1 to 64 of the characters"):
        Release.read({"rank": "a/b"})


def test_in_words():
    assert str(Quarantine("w0", "mad")) == "quarantine w0: mad"
    assert str(Release("w0")) == "release w0"
    assert str(QuarantineState("w0", "mad")) == "w0 is in quarantine: mad"
    assert str(QuarantineState("w0")) == "w0 may join"
