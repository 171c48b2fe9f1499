import sys
import unicodedata

import pytest

from leeway.protocol.limits import MAX_NAME
from leeway.protocol.names import REFUSED_CHARACTERS, is_tensor_name


@pytest.mark.parametrize("name", ["w", " ", "a b", "größe.重み", "n" * MAX_NAME, "a,b", "\u0378"])
def test_good(name):
    assert is_tensor_name(name)


@pytest.mark.parametrize(
    "name", ["", "n" * (MAX_NAME + 1), "a\n", "a\tb", "\x00", "\x7f", "\u00a0", "\u2028", "\u202e", "\ud800", "\ue000"]
)
def test_bad(name):
    assert not is_tensor_name(name)


def test_the_runs_are_in_order_and_apart():
    assert all(first <= last for first, last in REFUSED_CHARACTERS)
    ends = [edge for run in REFUSED_CHARACTERS for edge in run]
    assert ends == sorted(ends)
    assert REFUSED_CHARACTERS[-1][1] == sys.maxunicode


@pytest.mark.skipif(int(unicodedata.unidata_version.split(".")[0]) > 16, reason="the list is that of Unicode 16")
def test_it_is_what_unicode_calls_other_and_separator():
    """Of the characters that this Python's Unicode has assigned; the list itself knows later ones too."""
    refused = {code for first, last in REFUSED_CHARACTERS for code in range(first, last + 1)}
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category != "Cn":
            assert (code in refused) == (category[0] in "CZ" and code != 0x20), hex(code)


@pytest.mark.parametrize("code", [0x0378, 0x1C8A, 0x10D40, 0x1FAE9, 0x3FFFD])
def test_what_is_not_assigned_everywhere_is_taken_everywhere(code):
    """Some of these have a meaning since Unicode 16; a Python of before does not know them."""
    assert is_tensor_name(f"layer.{chr(code)}")
