import pytest

from leeway.transport.credentials.bearer import Bearer

SECRET = Bearer("s3cret-._~+/==")


@pytest.mark.parametrize("header", ["Bearer s3cret-._~+/==", "bearer  s3cret-._~+/== "])
def test_whoever_knows_it_is_admitted(header):
    assert SECRET.admits(header)
    assert SECRET.admits(SECRET.headers["Authorization"])


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer s3cret", "Basic s3cret-._~+/==", "s3cret-._~+/==", "Bearer \udcff"],
)
def test_nobody_else_is(header):
    assert not SECRET.admits(header)


def test_it_is_not_shown():
    assert "s3cret" not in f"{SECRET} {SECRET!r}"


@pytest.mark.parametrize("secret", ["", "a b", "a\r\nX: 1", "gr\u00fc\u00df", "=a"])
def test_what_no_header_can_carry(secret):
    with pytest.raises(ValueError, match="a secret must be") as raised:
        Bearer(secret)
    assert not secret or repr(secret) not in str(raised.value)
