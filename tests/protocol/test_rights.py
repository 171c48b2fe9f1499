"""Who may do what."""

import pytest

from leeway.errors import WireError
from leeway.protocol import routes
from leeway.protocol.rights import NEEDED, Caller, Callers, Right, needed

READER, WORKER, DEVICE, ADMIN = Right
ONE = Caller("one", frozenset({WORKER}), frozenset({"w0"}))
ANY = Caller("any", frozenset({WORKER}))
BOSS = Caller("boss", frozenset({ADMIN}))
EYE = Caller("eye", frozenset({READER}))
PHONE = Caller("phone", frozenset({DEVICE}))
CALLERS = Callers({each.name: each for each in (ONE, ANY, BOSS, EYE, PHONE)})


@pytest.mark.parametrize(
    ("caller", "rights"),
    [(ONE, {WORKER, READER}), (BOSS, {ADMIN, READER}), (EYE, {READER}), (PHONE, {DEVICE})],
)
def test_what_a_right_includes(caller, rights):
    assert {right for right in Right if caller.may(right)} == rights


def test_who_lacks_a_right_is_told_which():
    CALLERS.check(BOSS, ADMIN)
    CALLERS.check(EYE, None)
    with pytest.raises(WireError, match="forbidden: this needs the right admin, and the token one has worker") as told:
        CALLERS.check(ONE, ADMIN)
    assert told.value.facts == {"right": "admin"}


def test_a_rank_is_that_of_its_token_alone():
    CALLERS.check(ONE, WORKER, "w0")
    CALLERS.check(ANY, WORKER, "w1")
    with pytest.raises(WireError, match="the token one is for w0, and not for rank w1"):
        CALLERS.check(ONE, WORKER, "w1")
    with pytest.raises(WireError, match="rank w0 has a token of its own, and any is another"):
        CALLERS.check(ANY, WORKER, "w0")


def test_what_is_not_listed_is_for_admins():
    assert needed("GET", "/v1/new") is ADMIN
    assert needed("PATCH", routes.STATUS) is ADMIN
    assert needed("HEAD", routes.STATUS) is READER
    assert needed("GET", routes.LIVE) is None
    assert all(method in ("GET", "PUT", "POST", "DELETE") for method, _ in NEEDED)
