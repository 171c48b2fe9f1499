"""What `ps-keys` makes: certificates that TLS takes, tokens that a server takes, and nothing twice."""

import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from leeway.errors import SettingError
from leeway.protocol.rights import Right
from leeway.ps.keys import authority as authorities
from leeway.ps.keys.authority import Authority
from leeway.ps.keys.cluster import Cluster
from leeway.transport.credentials import tls
from leeway.transport.credentials.credentials import Credentials
from leeway.transport.credentials.tls import KeyPair
from leeway.transport.credentials.tokens import Tokens

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOSTS = ("localhost", "127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cluster"


def make(folder, hosts=HOSTS, workers=("w0", "w10", "w2"), days=90, now=NOW):
    cluster = Cluster(folder, now)
    cluster.make(hosts, workers, days)
    return cluster


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(before, folder):
    now = contents(folder)
    return {path for path in before | now if before.get(path) != now.get(path)}


def check(folder):
    """Everybody who has a folder is known by what is in it."""
    tokens = Tokens.read(folder / "server" / "tokens.toml")
    for holder in Cluster(folder, NOW).holders():
        pair = KeyPair(holder.folder / "cert.pem", holder.folder / "key.pem")
        tls.for_listener(pair, holder.folder / "ca.pem")
        authority = x509.load_pem_x509_certificate((holder.folder / "ca.pem").read_bytes())
        tls.certificate(pair.cert).verify_directly_issued_by(authority)
        if holder.right is not None:
            shown = Credentials.chosen({}, holder.folder / "token", holder.folder / "ca.pem", pair.cert, pair.key)
            caller = tokens.caller(shown.headers["Authorization"].removeprefix("Bearer "))
            assert (caller.name, caller.rights) == (holder.name, {holder.right})
            assert caller.ranks == ({holder.name} if holder.right is Right.WORKER else None)


def test_everybody_has_a_folder(folder):
    cluster = make(folder)
    assert [holder.name for holder in cluster.holders()] == ["server", "w0", "w2", "w10", "admin", "reader"]
    check(folder)
    assert {tls.certificate(path).not_valid_after_utc for path in folder.rglob("cert.pem")} == {
        NOW + timedelta(days=90)
    }
    assert tls.names(folder / "server" / "cert.pem") == HOSTS
    assert tls.names(folder / "workers" / "w2" / "cert.pem") == ("leeway-worker",), "and nobody's whom a client asks"
    assert tls.names(folder / "people" / "reader" / "cert.pem") == ()


def test_everything_is_its_owners_alone(folder):
    make(folder)
    for path in (folder, *folder.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_what_is_there_stays_and_what_is_missing_comes(folder):
    make(folder)
    before = contents(folder)
    again = make(folder, hosts=(), workers=("w0", "w3"))
    assert again.made == ["a certificate of w3", "a token of w3"]
    new = {f"workers/w3/{name}" for name in ("ca.pem", "cert.pem", "key.pem", "token")}
    assert changed(before, folder) == {"server/tokens.toml", *new}
    assert make(folder, hosts=(), workers=()).made == []
    before = contents(folder)
    assert make(folder, hosts=("trainer",), workers=()).made == ["a certificate of server"]
    assert changed(before, folder) == {"server/cert.pem"}
    assert set(tls.names(folder / "server" / "cert.pem")) == {"localhost", "127.0.0.1", "trainer"}, "names are added"
    check(folder)


def test_a_key_that_was_deleted_is_made_again_with_its_certificate(folder):
    make(folder)
    (folder / "workers" / "w0" / "key.pem").unlink()
    before = contents(folder)
    assert make(folder, hosts=(), workers=()).made == ["a certificate of w0"]
    assert changed(before, folder) == {"workers/w0/cert.pem", "workers/w0/key.pem"}
    check(folder)


def test_what_has_been_given_away_stays_in_use(folder):
    make(folder)
    (folder / "people" / "admin").rename(folder.parent / "admin")
    before = contents(folder)
    assert make(folder, hosts=(), workers=("w0",)).made == []
    assert changed(before, folder) == set()


def test_certificates_are_renewed_and_nothing_secret_moves(folder):
    make(folder)
    before = contents(folder)
    soon = NOW + timedelta(days=61)
    late = Cluster(folder, soon)
    late.renew(("w0",), 10)
    assert late.made == ["a certificate of w0"]
    assert changed(before, folder) == {"workers/w0/cert.pem"}
    assert tls.certificate(folder / "workers" / "w0" / "cert.pem").not_valid_after_utc == soon + timedelta(days=10)
    rest = Cluster(folder, soon)
    rest.renew((), 90)
    assert len(rest.made) == 6
    assert {path.rpartition("/")[2] for path in changed(before, folder)} == {"cert.pem"}
    assert tls.names(folder / "server" / "cert.pem") == HOSTS
    check(folder)
    with pytest.raises(SettingError, match="has no folder of w9; it has those of server, w0"):
        rest.renew(("w9",), 90)


def test_a_key_that_is_gone_is_made_anew(folder):
    make(folder)
    (folder / "workers" / "w0" / "key.pem").unlink()
    assert make(folder).made == ["a certificate of w0"]
    check(folder)


def test_a_certificate_of_another_authority_is_made_anew(folder):
    make(folder)
    strange = Authority.draw("another", NOW)
    key = (folder / "workers" / "w0" / "key.pem").read_bytes()
    (folder / "workers" / "w0" / "cert.pem").write_bytes(strange.issue("w0", (), key, NOW))
    assert make(folder).made == ["a certificate of w0"]
    check(folder)


def test_who_is_revoked_is_known_no_more(folder):
    cluster = make(folder)
    token = (folder / "workers" / "w2" / "token").read_text().strip()
    assert cluster.revoke("w2") == NOW + timedelta(days=90)
    tokens = Tokens.read(folder / "server" / "tokens.toml")
    assert tokens.caller(token) is None
    assert [entry.caller.name for entry in tokens.entries] == ["w0", "w10", "admin", "reader"]
    assert not (folder / "workers" / "w2").exists()
    with pytest.raises(SettingError, match="has no token w2"):
        cluster.revoke("w2")
    with pytest.raises(SettingError, match="has no token server"):
        cluster.revoke("server")
    assert make(folder, workers=("w2",)).made == ["a certificate of w2", "a token of w2"]
    assert (folder / "workers" / "w2" / "token").read_text().strip() != token


def test_what_somebody_has_added_stays(folder):
    make(folder)
    path = folder / "server" / "tokens.toml"
    path.write_text(
        path.read_text() + f'\n[eye]\nsha256 = "{"0" * 64}"\nrights = ["admin", "worker"]\nranks = ["a", "b"]\n'
    )
    make(folder, workers=("w7",))
    eye = next(entry.caller for entry in Tokens.read(path).entries if entry.caller.name == "eye")
    assert (eye.rights, eye.ranks) == ({Right.ADMIN, Right.WORKER}, {"a", "b"})


class Cut(BaseException):
    """As a kill in the middle."""


@pytest.mark.parametrize("writes", range(12))
def test_what_is_cut_short_is_completed_by_the_same_call(writes, folder, monkeypatch):
    from leeway.ps.keys import cluster

    whole = cluster.write_durably
    left = [writes]

    def until_cut(path, buffers):
        left[0] -= 1
        if left[0] < 0:
            path.with_name(path.name + ".partial").write_bytes(b"half")
            raise Cut
        whole(path, buffers)

    monkeypatch.setattr(cluster, "write_durably", until_cut)
    with pytest.raises(Cut):
        make(folder, workers=("w0",))
    monkeypatch.undo()
    make(folder, workers=("w0",))
    check(folder)
    assert [holder.name for holder in Cluster(folder, NOW).holders()] == ["server", "w0", "admin", "reader"]
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("cut", ["folder", "list"])
def test_who_is_half_revoked_can_be_revoked(cut, folder, monkeypatch):
    from leeway.ps.keys import cluster

    made = make(folder)

    def fail(*_):
        raise Cut

    monkeypatch.setattr(cluster.shutil, "rmtree", fail) if cut == "folder" else monkeypatch.setattr(
        cluster, "write_durably", fail
    )
    with pytest.raises(Cut):
        made.revoke("w2")
    monkeypatch.undo()
    made.revoke("w2")
    assert "w2" not in (folder / "server" / "tokens.toml").read_text()
    assert not (folder / "workers" / "w2").exists()


def spoil_ca_key(folder):
    (folder / "ca.key").unlink()


def spoil_ca(folder):
    (folder / "ca.pem").unlink()


def damage_ca_key(folder):
    (folder / "ca.key").write_text("no key")


def show_ca_key(folder):
    (folder / "ca.key").chmod(0o644)


def change_ca_key(folder):
    (folder / "ca.key").write_bytes(authorities.draw_key())


def damage_key(folder):
    (folder / "workers" / "w0" / "key.pem").write_text("no key")


def show_key(folder):
    (folder / "workers" / "w0" / "key.pem").chmod(0o644)


def damage_cert(folder):
    (folder / "workers" / "w0" / "cert.pem").write_text("no certificate")


def damage_tokens(folder):
    (folder / "server" / "tokens.toml").write_text("[w0")


def spoil_tokens(folder):
    (folder / "server" / "tokens.toml").unlink()


def open_folder(folder):
    folder.chmod(0o777)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_ca_key, "ca.key is not there: without it nothing can be signed; or make a new cluster"),
        (spoil_ca, "ca.pem is not there: without it nothing can be signed, copy it from .*server"),
        (damage_ca_key, "the authority in .* cannot be used: "),
        (show_ca_key, r"ca.key can be read by others \(mode 0644\): chmod 600"),
        (change_ca_key, "the authority in .* cannot be used: the key is not that of the certificate"),
        (damage_key, "w0: no certificate can be made: "),
        (show_key, r"key.pem can be read by others \(mode 0644\): chmod 600"),
        (damage_cert, "cert.pem is no PEM certificate"),
        (damage_tokens, "tokens.toml is not valid TOML"),
        (spoil_tokens, "tokens.toml is not there, and without it no token counts"),
        (open_folder, "can be written by others"),
    ],
)
def test_a_damaged_folder_is_left_as_it_is(spoil, words, folder):
    make(folder)
    spoil(folder)
    before = contents(folder)
    with pytest.raises(SettingError, match=words):
        make(folder)
    assert changed(before, folder) == set()


def test_what_cannot_be(folder, tmp_path):
    with pytest.raises(SettingError, match="no worker can be called admin"):
        make(folder, workers=("w0", "admin"))
    with pytest.raises(SettingError, match=r"there is no folder .*none"):
        Cluster(tmp_path / "none", NOW).renew((), 90)
    with pytest.raises(SettingError, match="by which names do workers reach the server"):
        make(folder, hosts=())
    with pytest.raises(SettingError, match="no server can be called leeway-worker"):
        make(folder, hosts=("leeway-worker",))
    assert not folder.exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SettingError, match="has other things in it"):
        make(tmp_path)
    with pytest.raises(SettingError, match=r"File exists|Not a directory"):
        make(file / "cluster")


def test_an_authority_that_has_ended_signs_nothing(folder):
    make(folder)
    late = Cluster(folder, NOW + timedelta(days=3651))
    with pytest.raises(SettingError, match="no certificate can be made: its certificate has ended, at 2036"):
        late.renew((), 90)


def test_no_certificate_outlives_its_authority():
    authority = Authority.draw("a", NOW)
    late = authority.ends - timedelta(days=1)
    cert = authority.issue("w0", (), authorities.draw_key(), late, 90)
    assert x509.load_pem_x509_certificate(cert).not_valid_after_utc == authority.ends
