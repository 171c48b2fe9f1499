"""The file of tokens: what is read is what was written, and nothing else gets in."""

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.errors import SettingError
from leeway.protocol.rights import Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry, Tokens

NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64).filter(
    lambda name: name not in (".", "..")
)
HASH = hashlib.sha256(b"leeway_x").hexdigest()


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "tokens.toml"
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


@st.composite
def callers(draw):
    rights = frozenset(draw(st.sets(st.sampled_from(Right), min_size=1)))
    ranks = draw(st.none() | st.frozensets(NAMES, min_size=1)) if Right.WORKER in rights else None
    return Caller(draw(NAMES), rights, ranks)


@given(st.lists(callers(), min_size=1, unique_by=lambda caller: caller.name))
def test_what_is_written_is_read(tmp_path_factory, found):
    drawn = {caller.name: tokens.draw() for caller in found}
    entries = [Entry(caller, tokens.digest(drawn[caller.name])) for caller in found]
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(tokens.written(entries))
    path.chmod(0o600)
    read = Tokens.read(path)
    assert list(read.entries) == entries
    for caller in found:
        token = drawn[caller.name]
        assert read.caller(token) == caller
        assert token not in path.read_text()
        for other in (token[:-1], token + "x", token.upper(), "", tokens.digest(token), "\udcff"):
            assert read.caller(other) is None


def test_two_draws_differ():
    assert len({tokens.draw() for _ in range(100)}) == 100
    assert all(token.startswith("leeway_") and len(token) == 50 for token in (tokens.draw() for _ in range(9)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no token: with it nobody would get in"),
        ("[a", "is not valid TOML"),
        ("a = 1", r"\[a\] must be a table with sha256, rights, ranks"),
        ('["a b"]\n', "a token's name is 1 to 64 of the characters"),
        ('["\\u000An"]\n', r"\['.*n'\]: a token's name is 1 to 64 of the characters"),
        ('[a]\nrights = ["worker"]', "sha256 must be the token's SHA-256, 64 lower-case"),
        (f'[a]\nsha256 = "{HASH.upper()}"\nrights = ["worker"]', "sha256 must be"),
        (f'[a]\nsha256 = "{HASH}"', r'rights must be a list of text that is not empty, such as \["worker"\]'),
        (f'[a]\nsha256 = "{HASH}"\nrights = []', "rights must be a list"),
        (f'[a]\nsha256 = "{HASH}"\nrights = ["boss"]', "no right 'boss'; there are reader, worker, device, admin"),
        (f'[a]\nsha256 = "{HASH}"\nrights = ["worker"]\nranks = [1]', "ranks must be a list"),
        (f'[a]\nsha256 = "{HASH}"\nrights = ["worker"]\nranks = ["a b"]', "'a b' is no rank"),
        (f'[a]\nsha256 = "{HASH}"\nrights = ["reader"]\nranks = ["w0"]', "ranks are for the right worker"),
        (f'[a]\nsha256 = "{HASH}"\nright = ["reader"]', "'right' is not known; there are sha256, rights, ranks"),
        (
            f'[a]\nsha256 = "{HASH}"\nrights = ["reader"]\n[b]\nsha256 = "{HASH}"\nrights = ["reader"]',
            "a, b are the same token; give each one its own",
        ),
    ],
)
def test_what_is_wrong_with_a_file(written, text, words):
    path = written(text)
    with pytest.raises(SettingError, match=words) as told:
        Tokens.read(path)
    assert str(path) in str(told.value)


def test_others_may_not_read_it(written):
    path = written(f'[a]\nsha256 = "{HASH}"\nrights = ["reader"]')
    path.chmod(0o644)
    with pytest.raises(SettingError, match="can be read by others"):
        Tokens.read(path)
