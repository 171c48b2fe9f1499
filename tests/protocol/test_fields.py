from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leeway.errors import MalformedRequest
from leeway.protocol.codes import Code
from leeway.protocol.fields import MAX_INTEGER, MAX_TEXT, Fields, Query, bound

# Python refuses to print it.
HUGE = pytest.param(10**5000, id="huge")


def take(method: str, value: object, *limits: object) -> object:
    return getattr(Fields({"x": value}, "thing"), method)("x", *limits)


def asked(method: str, text: str, *limits: object) -> object:
    return getattr(Query({"x": text}), method)("x", *limits)


def refusal(method: str, value: object, *limits: object, take=take) -> str:
    with pytest.raises(MalformedRequest) as caught:
        take(method, value, *limits)
    assert caught.value.code is Code.MALFORMED_REQUEST
    return caught.value.detail


def test_only_an_object_has_fields():
    with pytest.raises(MalformedRequest, match=r"thing must be an object, not \[1, 2\]"):
        Fields([1, 2], "thing")


def test_null_is_absent():
    fields = Fields({"x": None, "y": 0}, "thing")
    assert "x" not in fields
    assert "y" in fields
    assert "z" not in fields


@pytest.mark.parametrize("method", ["integer", "number", "text", "rank"])
def test_what_is_missing_is_named(method):
    assert refusal(method, None) == "thing: 'x' is missing"


def test_a_long_value_is_shown_short():
    assert refusal("rank", "é" * 500).startswith("thing: 'x' is '" + "é" * 76 + "..., it must be 1 to 64")


def test_what_a_person_sets_has_known_fields_only():
    fields = Fields({"x": 1, "y": None}, "thing")
    fields.only("x", "y", "z")
    with pytest.raises(MalformedRequest) as caught:
        fields.only("x", "z")
    assert caught.value.detail == "thing: 'y' is not known; known are x, z"


def test_a_word_in_place_of_a_number():
    assert Fields({"x": "auto"}, "thing").says("x", "auto")
    for value in (None, 1.0, "Auto", ["auto"]):
        assert not Fields({"x": value}, "thing").says("x", "auto")
    assert not Fields({}, "thing").says("x", "auto")
    with pytest.raises(MalformedRequest, match=r'a number from 0\.0 to 2\.0, or "auto"$'):
        Fields({"x": "much"}, "thing").number("x", 0.0, 2.0, other='"auto"')


@pytest.mark.parametrize(("value", "number"), [(0, 0), (7, 7), (MAX_INTEGER, MAX_INTEGER)])
def test_integers(value, number):
    assert take("integer", value) == number


@pytest.mark.parametrize("value", [True, -1, 2**53, 1.0, "1", "", [1], 10**400, HUGE])
def test_no_integers(value):
    assert "it must be an integer from 0 to 9007199254740991" in refusal("integer", value)


def test_an_integer_has_limits():
    assert take("integer", 3, 3, 5) == 3
    assert "must be an integer from 3 to 5" in refusal("integer", 2, 3, 5)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("12", 12), ("007", 7), (str(MAX_INTEGER), MAX_INTEGER)])
def test_integers_of_a_query(text, number):
    assert asked("integer", text) == number


@pytest.mark.parametrize("text", ["-1", "1.5", "", " 1", "²", "٣", "9" * 17, str(2**53)])
def test_no_integers_of_a_query(text):
    assert "it must be an integer from 0 to 9007199254740991" in refusal("integer", text, take=asked)


def test_an_integer_of_a_query_has_limits():
    assert asked("integer", "5", 3, 5) == 5
    assert "must be an integer from 3 to 5" in refusal("integer", "6", 3, 5, take=asked)
    with pytest.raises(MalformedRequest, match="query: 'y' is missing"):
        Query({"x": "1"}).integer("y")


@pytest.mark.parametrize(("value", "number"), [(0, 0.0), (2.5, 2.5)])
def test_numbers(value, number):
    assert take("number", value) == number
    assert isinstance(take("number", value), float)


@pytest.mark.parametrize("value", [True, -0.1, math.nan, math.inf, "2.5", [1], 10**400, HUGE])
def test_no_numbers(value):
    assert "it must be a number from 0.0 to inf" in refusal("number", value)


def test_a_number_has_limits():
    assert take("number", -1, -1.0, 1.0) == -1.0
    assert "must be a number from -1.0 to 1.0" in refusal("number", 1.1, -1.0, 1.0)


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        *((value, False) for value in (None, False, 0)),
        *((value, True) for value in (True, 1)),
    ],
)
def test_flags(value, flag):
    assert take("flag", value) is flag


@pytest.mark.parametrize("value", ["1", "true", "", 2, [True], {}])
def test_no_flags(value):
    assert "must be true or false" in refusal("flag", value)


@pytest.mark.parametrize(("text", "flag"), [("0", False), ("false", False), (None, False), ("1", True), ("true", True)])
def test_flags_of_a_query(text, flag):
    assert asked("flag", text) is flag


@pytest.mark.parametrize("text", ["yes", "", "2"])
def test_no_flags_of_a_query(text):
    assert "must be true or false" in refusal("flag", text, take=asked)


def test_text_has_a_length():
    assert take("text", "x" * MAX_TEXT) == "x" * MAX_TEXT
    assert take("text", "ab", 2) == "ab"
    for value in ("", "abc", 7, b"a"):
        assert "must be text of 1 to 2 characters" in refusal("text", value, 2)


@pytest.mark.parametrize("value", ["", "a b", "a/b", "x" * 65, 7, "ä"])
def test_no_ranks(value):
    assert "must be 1 to 64 of the characters" in refusal("rank", value)


def test_ranks():
    assert take("rank", "a.B_c-9") == "a.B_c-9"


def test_listings():
    assert take("listing", [1, "a"], 2) == [1, "a"]
    assert take("listing", (1,), 2) == [1]
    for value in ([1, 2, 3], "ab", {}):
        assert "must be a list of at most 2" in refusal("listing", value, 2)


def test_lists_of_integers():
    assert take("integers", [0, 9], 2, 9) == (0, 9)
    for value in ([10], [-1], [True], ["1"], [1.0]):
        assert "must be a list of integers from 0 to 9" in refusal("integers", value, 2, 9)
    assert "must be a list of at most 2" in refusal("integers", [1, 2, 3], 2, 9)


def test_mappings():
    assert take("mapping", {"a": 1}, 1) == {"a": 1}
    for value in ({"a": 1, "b": 2}, {1: 2}, [1]):
        assert "must be an object of at most 1 members" in refusal("mapping", value, 1)


def test_choices():
    assert take("choice", "a", ("a", "b")) == "a"
    for value in ("c", 1, ["a"], {}):
        assert "must be one of a, b" in refusal("choice", value, ("a", "b"))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(
    anything,
    st.sampled_from(
        [
            ("integer",),
            ("number",),
            ("number", -math.inf),
            ("flag",),
            ("text",),
            ("rank",),
            ("listing", 2),
            ("integers", 2),
            ("mapping", 2),
            ("choice", ("a", "b")),
        ]
    ),
)
@example(10**400, ("number",))
def test_a_field_is_taken_or_refused_never_anything_else(value, method):
    try:
        take(method[0], value, *method[1:])
    except MalformedRequest as error:
        said = error.detail
    else:
        return
    assert "'x' " in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "1 or more"),
        (11, "at most 10"),
        (math.inf, "finite and at most 10"),
        (-math.inf, "1 or more"),
        (math.nan, "1 or more"),
    ],
)
def test_what_a_number_out_of_bounds_has_to_be(value: float, words: str) -> None:
    assert bound(value, 1, 10) == words


@pytest.mark.parametrize(("text", "number"), [("0", 0.0), ("2.5", 2.5), ("1e-3", 0.001)])
def test_numbers_of_a_query(text, number):
    assert asked("number", text) == number


@pytest.mark.parametrize("text", ["-1", "x", "", "nan", "inf", "1e999", "٣", "1" * 40])
def test_no_numbers_of_a_query(text):
    assert "it must be a number from 0.0 to inf" in refusal("number", text, take=asked)


def test_a_number_of_a_query_may_be_a_word_too():
    with pytest.raises(MalformedRequest, match=r"a number from 0\.0 to 1\.0, or auto$"):
        Query({"x": "2"}).number("x", 0.0, 1.0, other="auto")
