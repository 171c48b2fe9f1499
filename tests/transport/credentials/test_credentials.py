"""What a process shows, and whom it believes: from arguments, else from variables; each mistake is one sentence."""

import os
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization

from leeway.errors import SettingError
from leeway.transport.credentials.credentials import NOTHING, Credentials
from tests.transport.credentials.clusters import Keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys") / "cluster")


def private(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_nothing_is_nothing():
    assert Credentials.chosen({}) == NOTHING == Credentials.chosen({"PS_TOKEN_FILE": "", "PS_TLS_CA": ""})
    assert NOTHING.headers == {}
    assert NOTHING.to_neighbour() is NOTHING.to_listener() is None


def test_variables_and_arguments_above_them(keys):
    named = Credentials.chosen(keys.variables("w0"))
    assert (named.ca, named.pair) == (keys.of("w0") / "ca.pem", keys.pair("w0"))
    token = (keys.of("w0") / "token").read_text().strip()
    assert named.headers == {"Authorization": f"Bearer {token}"}
    other = Credentials.chosen(keys.variables("w0"), keys.of("w1") / "token")
    assert other.headers != named.headers
    assert other.pair == named.pair
    assert named.to_neighbour() is not None
    assert named.to_listener() is not None


def test_no_secret_is_in_its_text(keys):
    named = keys.credentials("w0")
    for said in (repr(named), str(named), repr(vars(type(named))), f"{named!r}"):
        assert not [what for what, secret in keys.secrets().items() if secret in said]


class Bad:
    """What may be wrong with the files: how they are made, and what is said."""

    @staticmethod
    def no_file(keys, folder):
        return {"token_file": folder / "none"}, "token file .*none: No such file"

    @staticmethod
    def folder(keys, folder):
        return {"token_file": folder}, "token file .*: Is a directory"

    @staticmethod
    def pipe(keys, folder):
        os.mkfifo(folder / "pipe", 0o600)
        return {"token_file": folder / "pipe"}, "it is a pipe, where a regular file should be"

    @staticmethod
    def empty(keys, folder):
        return {"token_file": private(folder / "t", "\n")}, "must hold one token, on one line, and nothing else"

    @staticmethod
    def two_tokens(keys, folder):
        return {"token_file": private(folder / "t", "a\nb\n")}, "must hold one token"

    @staticmethod
    def no_token(keys, folder):
        return {"token_file": private(folder / "t", "ä§")}, "token file .*: a secret must be 1 or more of the letters"

    @staticmethod
    def bytes(keys, folder):
        path = private(folder / "t", "")
        path.write_bytes(b"\xff\xfe")
        return {"token_file": path}, "must hold one token"

    @staticmethod
    def read_by_others(keys, folder):
        path = private(folder / "t", "leeway_x")
        path.chmod(0o644)
        return {"token_file": path}, r"can be read by others \(mode 0644\): chmod 600 .*t"

    @staticmethod
    def certificate_alone(keys, folder):
        return {"cert": keys.pair("w0").cert}, r"there is a certificate alone: give the other one too \(PS_TLS_KEY\)"

    @staticmethod
    def key_alone(keys, folder):
        return {"key": keys.pair("w0").key}, r"there is a key alone: give the other one too \(PS_TLS_CERT\)"

    @staticmethod
    def key_of_another(keys, folder):
        return {"cert": keys.pair("w0").cert, "key": keys.pair("w1").key}, "key .* is not that of the certificate .*w0"

    @staticmethod
    def encrypted(keys, folder):
        key = serialization.load_pem_private_key(keys.pair("w0").key.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(b"secret")
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        path = private(folder / "k", pem.decode())
        return {"cert": keys.pair("w0").cert, "key": path}, "is encrypted: give one without a password, readable by you"

    @staticmethod
    def key_read_by_others(keys, folder):
        path = private(folder / "k", keys.pair("w0").key.read_text())
        path.chmod(0o604)
        return {"cert": keys.pair("w0").cert, "key": path}, r"key .*k can be read by others \(mode 0604\)"

    @staticmethod
    def no_pem(keys, folder):
        path = private(folder / "c", "no certificate")
        return {"cert": path, "key": keys.pair("w0").key}, "no PEM, or damaged"

    @staticmethod
    def key_missing(keys, folder):
        return {"cert": keys.pair("w0").cert, "key": folder / "none"}, "key .*none: No such file"

    @staticmethod
    def no_authority(keys, folder):
        return {"ca": private(folder / "ca", "no authority")}, "CA file .* has no PEM certificate in it"

    @staticmethod
    def authority_missing(keys, folder):
        return {"ca": folder / "none"}, "CA file .*none: No such file"


@pytest.mark.parametrize("bad", [name for name in vars(Bad) if not name.startswith("_")])
def test_a_mistake_is_one_sentence(bad, keys, tmp_path):
    arguments, words = getattr(Bad, bad)(keys, tmp_path)
    with pytest.raises(SettingError, match=words) as refused:
        Credentials.chosen({}, **arguments)
    assert "\n" not in str(refused.value)
    assert not [what for what, secret in keys.secrets().items() if secret in str(refused.value)]


def test_openssl_takes_the_certificates(keys):
    """The certificates are such as others take too."""
    openssl = ["openssl", "verify", "-x509_strict", "-CAfile", keys.ca, keys.pair("server").cert, keys.pair("w0").cert]
    done = subprocess.run(openssl, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
