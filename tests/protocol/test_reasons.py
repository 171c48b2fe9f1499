from __future__ import annotations

import re

from leeway.protocol.reasons import Reason


def test_reasons_can_be_labels_and_header_values():
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", reason) for reason in Reason)


def test_a_reason_is_named_as_it_reads():
    assert all(reason.name == reason.replace("-", "_").upper() for reason in Reason)


def test_a_reason_is_read_from_its_text():
    assert Reason("own-update") is Reason.OWN_UPDATE
