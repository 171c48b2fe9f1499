import math

import pytest

from leeway.protocol.reasons import Reason
from leeway.ps.top.bars import spark
from leeway.ps.top.words import count, doing, names, number, plain, rate, short_name

SIZES = [10.0**power for power in range(-300, 301, 25)] + [0.0, 4e9, 999.95, 99_999.5, 1e-12, math.inf, math.nan]


@pytest.mark.parametrize("value", SIZES)
def test_a_number_of_any_size_fits(value):
    assert len(number(value)) <= 8
    assert len(number(-value)) <= 9
    if math.isfinite(value):
        assert len(rate(value)) <= 8
        assert len(count(round(value), 4)) <= 5
        assert len(count(round(value), 7)) <= 7


def test_numbers():
    assert [number(value) for value in (None, math.nan, 0.0, 4e9, 0.4)] == ["NaN", "NaN", "0", "4e+09", "0.4000"]
    assert [count(value, 4) for value in (0, 9999, 91_666, 999_999, 4 * 10**9)] == ["0", "9999", "92k", "1M", "4G"]


def test_names_of_any_length_can_be_told_apart():
    long = [f"worker-{'x' * 50}-{number:06}" for number in range(5)]
    short = [short_name(name) for name in long]
    assert len(set(short)) == 5
    assert {len(name) for name in short} == {24}
    assert short_name("w" * 24) == "w" * 24
    assert names(["w0"]) == "w0"
    assert names(["w0", "w1", "w2", "w3", "w4"]) == "w0, w1, w2 and 2 more"


@pytest.mark.parametrize("losses", [(1e308, -1e308, 1e308), (1e-320, 2e-320), (1e300,) * 100, (0.0, 4e9)])
def test_a_curve_of_any_numbers_can_be_drawn(losses):
    assert len(spark(losses, 8)) == min(8, len(losses))


@pytest.mark.parametrize(
    "reason",
    ["lag", "waiting-for-round", "next-round", "switching", "own-update", "waiting-for-step", "no-parameters"],
)
def test_a_reason_is_said_in_words_and_fits(reason):
    assert reason in list(Reason)
    whom = ["w1"] if reason in ("lag", "waiting-for-round", "next-round", "switching") else []
    why = {"reason": reason, "detail": "the server's words", "waiting_for": whom}
    said = doing({"state": "waiting", "lag": 4, "why": why}, 3)
    assert reason == "lag" or reason not in said
    assert "the server's words" not in said
    assert all(rank in said for rank in whom)
    assert len(said) <= 30, "in a terminal of 80"


def test_what_the_server_says_of_other_reasons_is_told():
    why = {"reason": "new", "detail": "it is new", "waiting_for": ["w1"]}
    assert doing({"state": "waiting", "lag": 4, "why": why}, 3) == "waits for w1: it is new"
    assert doing({"state": "waiting", "lag": 4, "why": {"reason": "new"}}, 3) == "waits: new"


def test_decisions_in_words():
    assert plain("w0 leads w1 and w2 by 4 > 3") == "w0 is 4 ahead of w1 and w2, 3 allowed"
    assert plain("life 1 of this rank") == "life 1 of this rank"
