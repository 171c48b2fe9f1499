"""The terms of a policy: in words, which of them make one, and what they are in messages."""

import pytest

from leeway.protocol import limits
from leeway.protocol.fields import Fields
from leeway.protocol.policy_terms import PolicyTerms


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (PolicyTerms("async"), "async"),
        (PolicyTerms("ssp", 0), "ssp(0)"),
        (PolicyTerms("sync", quorum=3, grace_seconds=0.5), "sync(quorum 3, grace 0.5 s)"),
        (PolicyTerms("sync", quorum=3), "sync(quorum 3, grace auto)"),
    ],
)
def test_in_words(terms, words):
    assert str(terms) == words
    terms.check()
    assert PolicyTerms.read(Fields(terms.to_fields(), "policy")) == terms


def test_a_quorum_without_a_grace_has_the_grace_auto():
    assert PolicyTerms("sync", quorum=2) == PolicyTerms("sync", quorum=2, grace_seconds="auto")
    assert PolicyTerms("sync").grace_seconds is None
    assert PolicyTerms("sync", quorum=2).to_fields()["grace_seconds"] is None


@pytest.mark.parametrize(
    ("fields", "grace"),
    [({}, "auto"), ({"grace_seconds": None}, "auto"), ({"grace_seconds": "auto"}, "auto"), ({"grace_seconds": 0}, 0.0)],
)
def test_a_grace_may_be_written_auto(fields, grace):
    wanted = {"mode": "sync", "quorum": 2} | fields
    assert PolicyTerms.read(Fields(wanted, "policy"), wanted=True) == PolicyTerms("sync", None, 2, grace)


@pytest.mark.parametrize(
    ("mode", "bound", "words"),
    [
        ("gossip", None, "unknown policy 'gossip': choose one of sync, async, ssp"),
        ("sync", 1, "policy sync takes no staleness bound"),
        ("async", 0, "policy async takes no staleness bound"),
        ("ssp", None, "policy ssp needs a staleness bound"),
        ("ssp", -1, "the staleness bound is -1, it must be from 0 to 1000000"),
        ("ssp", limits.MAX_STALENESS + 1, "the staleness bound is 1000001"),
    ],
)
def test_what_makes_no_policy(mode, bound, words):
    with pytest.raises(ValueError, match=words):
        PolicyTerms(mode, bound).check()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("sync", None, 0), "the quorum is 0, it must be from 1"),
        (("sync", None, limits.MAX_RANKS + 1), "it must be from 1 to 65536"),
        (("sync", None, 2, -1.0), "the grace is -1 s"),
        (("sync", None, 2, 1e9), "it must be from 0 to 3600, or auto"),
        (("sync", None, 2, float("nan")), "the grace is nan s"),
        (("sync", None, None, 1.0), r"a grace \(1 s given\) is for a quorum; give a quorum too"),
        (("sync", None, None, "auto"), r"a grace \(auto given\) is for a quorum; give a quorum too"),
        (("ssp", 1, 2), "policy ssp takes no quorum"),
        (("async", None, 2), "policy async takes no quorum"),
    ],
)
def test_what_makes_no_quorum(settings, words):
    with pytest.raises(ValueError, match=words):
        PolicyTerms(*settings).check()
