"""The JSON surface, the short form: a few requests for each operation, always the same."""

import pytest

served = pytest.importorskip("tests.fuzz.served", reason="schemathesis is not installed", exc_type=ImportError)


@pytest.mark.parametrize("with_tokens", [False, True], ids=["without tokens", "with tokens"])
def test_every_operation_is_answered_as_the_file_says(with_tokens):
    asked = served.ask(4, 7, with_tokens=with_tokens)
    assert not asked.failed, asked.said
    assert asked.asked > 50
