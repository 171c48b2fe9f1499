from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.errors import MalformedRequest
from leeway.protocol.versions import Version

numbers = st.integers(0, 10**18 - 1)


@given(numbers, numbers)
def test_a_version_is_read_as_it_is_written(epoch, number):
    version = Version(epoch, number)
    assert Version.parse(str(version)) == version
    assert Version.parse(version.etag) == version
    assert Version.parse(f"W/{version.etag}") == version
    assert Version.parse(f" {version} ") == version


def test_an_etag_has_quotes():
    assert Version(17, 42).etag == '"17.42"'


def test_a_new_epoch_comes_after_the_old_one():
    assert Version(1, 9) < Version(2, 1) < Version(2, 2)


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "1.2.3", "-1.2", "1.x", "²·1", "²", "٣.1", "1.²", "*"])
def test_no_versions(text):
    with pytest.raises(MalformedRequest, match="is not of the form"):
        Version.parse(text)


@pytest.mark.parametrize("text", ["1" * 19 + ".1", "1." + "1" * 19])
def test_versions_out_of_range(text):
    with pytest.raises(MalformedRequest, match="at most 18 digits"):
        Version.parse(text)


@given(st.text())
def test_any_text_is_a_version_or_refused(text):
    with suppress(MalformedRequest):
        assert isinstance(Version.parse(text), Version)
