"""JSON is one value or a `ValueError`."""

import pytest

from leeway.protocol.documents import parse


@pytest.mark.parametrize("text", ['{"a": {"b": [1, {"b": 2}]}, "b": null}', b'{"a": 1}', b"[]", b"7"])
def test_what_is_json_is_its_value(text):
    assert parse(text) == eval(text, {"null": None})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 1}', "the key 'a' is there twice"),
        (b'{"a": 1, "b": 2, "\\u0062": 3}', "the key 'b' is there twice"),
        (b'{"x": [{"y": {"a": 1, "a": null}}]}', "the key 'a' is there twice"),
        (b'{"%s": 1, "%s": 2}' % (b"k" * 1000, b"k" * 1000), "..."),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b"9" * 5000, "digits"),
        (b"\xff", "decode"),
        (b"{", "Expecting"),
        (b"", "Expecting"),
    ],
)
def test_everything_else_is_a_value_error(text, words):
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 200
