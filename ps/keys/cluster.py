"""A folder with all that a small cluster needs to know its own: what is whose lies in a folder of its own.

    cluster/
        ca.pem  ca.key     the authority; its key stays here
        server/            ca.pem cert.pem key.pem tokens.toml: hashes of all tokens
        workers/w0/        ca.pem cert.pem key.pem token
        people/admin/      ca.pem cert.pem key.pem token
        people/reader/     ca.pem cert.pem key.pem token

The one rule: what is there is never made anew unless that is asked for; a second `make` adds what is missing.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from leeway.errors import SettingError
from leeway.protocol.ranks import is_rank, natural
from leeway.protocol.rights import Caller, Right
from leeway.ps.keys.authority import DAYS, Authority, draw_key, is_of
from leeway.ps.storage.files import PARTIAL_SUFFIX, write_durably
from leeway.transport.credentials import secret_files, tls, tokens
from leeway.transport.credentials.tokens import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from cryptography.x509 import Certificate

NAME: Final = "leeway cluster"
SERVER: Final = "server"
# Workers are wherever they run: who connects to one of them knows it by this name.
WORKER_NAME: Final = "leeway-worker"
PEOPLE: Final = {"admin": Right.ADMIN, "reader": Right.READER}

# A certificate is renewed when it has less than this share of its days left.
RENEWED_DAYS: Final = DAYS / 3


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a folder. `hosts`: by which it is to be reached, none: as before."""

    name: str
    folder: Path
    right: Right | None
    hosts: tuple[str, ...] = ()
    rank: str | None = None


class Cluster:
    """In `folder`, as it is or as it comes to be. Methods raise `SettingError` for what the user can mend, and leave a
    folder that the same call, made once more, completes.
    """

    def __init__(self, folder: Path, now: datetime) -> None:
        self.folder = folder
        self._now = now
        self.made: list[str] = []

    def make(self, hosts: Sequence[str], workers: Sequence[str], days: int) -> None:
        if taken := {SERVER, *PEOPLE}.intersection(workers):
            raise SettingError(f"no worker can be called {min(taken)}: somebody else here is")
        self._check_folder()
        # Names are added: whoever reaches the server by one of before goes on doing so.
        known = self._names_of_server()
        server = self._server(tuple(dict.fromkeys((*known, *hosts))) if hosts else ())
        if WORKER_NAME in hosts:
            raise SettingError(f"no server can be called {WORKER_NAME}: every worker's certificate is for that name")
        if not hosts and self._cert(server) is None:
            raise SettingError("by which names do workers reach the server? Give --server HOST, once for each")
        self._private(self.folder)
        authority = self._authority()
        entries = self._entries()
        self._certificate(authority, server, days)
        # Of those who are here what is missing is made too.
        ranks = {*workers, *(holder.rank for holder in self.holders() if holder.rank is not None)}
        holders = (*map(self._worker, sorted(ranks, key=natural)), *map(self._person, PEOPLE))
        # Who has a token, and no folder any more, has been given it: what is in use stays as it is.
        here = [holder for holder in holders if holder.name not in entries or holder.folder.exists()]
        for holder in here:
            self._certificate(authority, holder, days)
        self._draw_tokens(here, entries)
        for holder in self.holders():
            if not _is(holder.folder / "ca.pem", authority.cert_pem):
                self._write(holder.folder / "ca.pem", authority.cert_pem)

    def renew(self, names: Sequence[str], days: int) -> None:
        """New certificates for these; without names, for those that end soon. Keys stay as they are."""
        authority = self._authority(there=True)
        known = {holder.name: holder for holder in self.holders()}
        if unknown := [name for name in names if name not in known]:
            raise SettingError(f"{self.folder} has no folder of {unknown[0]}; it has those of {', '.join(known)}")
        soon = self._now + timedelta(days=RENEWED_DAYS)
        for name, holder in known.items():
            cert = self._cert(holder)
            if name in names or (not names and (cert is None or cert.not_valid_after_utc < soon)):
                self._certificate(authority, holder, days, anew=True)

    def revoke(self, name: str) -> datetime | None:
        """Take a token from the list, and its folder away; until when its certificate would be good."""
        entries = self._entries()
        known = {holder.name: holder for holder in self.holders() if holder.right is not None}
        if name not in entries and name not in known:
            raise SettingError(f"{self._tokens_file} has no token {name}; it has {', '.join(entries)}")
        holder = known.get(name)
        cert = self._cert(holder) if holder is not None else None
        try:
            # The folder first: while the name is in the list, this can be done once more.
            if holder is not None:
                shutil.rmtree(holder.folder)
        except OSError as error:
            raise SettingError(f"{holder and holder.folder}: {error.strerror}") from None
        if entries.pop(name, None):
            self._write(self._tokens_file, tokens.written(entries.values()).encode())
        return cert.not_valid_after_utc if cert is not None else None

    def holders(self) -> Iterator[Holder]:
        """Those who have a folder, in order."""
        server = self._server(())
        if server.folder.is_dir():
            yield server
        workers = self.folder / "workers"
        if workers.is_dir():
            for rank in sorted(filter(is_rank, os.listdir(workers)), key=natural):
                yield self._worker(rank)
        yield from (person for person in map(self._person, PEOPLE) if person.folder.is_dir())

    # Who there can be.

    @property
    def _tokens_file(self) -> Path:
        return self.folder / SERVER / "tokens.toml"

    def _server(self, hosts: tuple[str, ...]) -> Holder:
        return Holder(SERVER, self.folder / SERVER, None, hosts)

    def _names_of_server(self) -> tuple[str, ...]:
        server = self._server(())
        return tls.names(server.folder / "cert.pem") if self._cert(server) is not None else ()

    def _worker(self, rank: str) -> Holder:
        return Holder(rank, self.folder / "workers" / rank, Right.WORKER, (WORKER_NAME,), rank)

    def _person(self, name: str) -> Holder:
        return Holder(name, self.folder / "people" / name, PEOPLE[name])

    # What is made.

    def _authority(self, *, there: bool = False) -> Authority:
        cert, key = self.folder / "ca.pem", self.folder / "ca.key"
        if there and not self.folder.is_dir():
            raise SettingError(f"there is no folder {self.folder}")
        # Without one of the two something has happened to it, unless nobody has a certificate: it was being made.
        if there or (cert.exists() and key.exists()) or any(self.holders()):
            for path in (cert, key):
                if not path.exists():
                    more = f", copy it from {self.folder / SERVER}" if path is cert else ""
                    raise SettingError(
                        f"{path} is not there: without it nothing can be signed{more}; or make a new cluster"
                    )
            try:
                return Authority.load(cert.read_bytes(), secret_files.read(key, "key"))
            except (OSError, ValueError) as error:
                raise SettingError(f"the authority in {self.folder} cannot be used: {error}") from None
        authority = Authority.draw(NAME, self._now)
        self._write(key, authority.key_pem)
        self._write(cert, authority.cert_pem)
        self.made.append("an authority")
        return authority

    def _certificate(self, authority: Authority, holder: Holder, days: int, *, anew: bool = False) -> None:
        """The key first, which stays while certificates come and go: so there is never a certificate of another key."""
        self._private(holder.folder)
        path = holder.folder / "cert.pem"
        cert, key = self._cert(holder), self._key(holder)
        if key is None:
            key = draw_key()
            self._write(holder.folder / "key.pem", key)
        try:
            hosts = holder.hosts or (tls.names(path) if cert is not None else ())
            good = cert is not None and is_of(cert, key) and authority.has_issued(cert)
            if good and not anew and set(tls.names(path)) == set(hosts):
                return
            issued = authority.issue(holder.name, hosts, key, self._now, days)
        except SettingError:
            raise
        except ValueError as error:
            raise SettingError(f"{holder.folder}: no certificate can be made: {error}") from None
        self._write(path, issued)
        self.made.append(f"a certificate of {holder.name}")

    def _cert(self, holder: Holder) -> Certificate | None:
        path = holder.folder / "cert.pem"
        return tls.certificate(path) if path.exists() else None

    def _key(self, holder: Holder) -> bytes | None:
        path = holder.folder / "key.pem"
        return secret_files.read(path, "key") if path.exists() else None

    def _draw_tokens(self, holders: Iterable[Holder], entries: dict[str, Entry]) -> None:
        """Tokens for those who have none. They are known before they are there: what is cut short is drawn anew."""
        drawn = {}
        for holder in holders:
            if holder.name in entries and (holder.folder / "token").exists():
                continue
            assert holder.right is not None, "the server has no token"
            drawn[holder] = token = tokens.draw()
            ranks = None if holder.rank is None else frozenset({holder.rank})
            entries[holder.name] = Entry(Caller(holder.name, frozenset({holder.right}), ranks), tokens.digest(token))
        if drawn:
            self._write(self._tokens_file, tokens.written(entries.values()).encode())
        for holder, token in drawn.items():
            self._write(holder.folder / "token", f"{token}\n".encode())
            self.made.append(f"a token of {holder.name}")

    def _entries(self) -> dict[str, Entry]:
        if self._tokens_file.exists():
            return {entry.caller.name: entry for entry in tokens.Tokens.read(self._tokens_file).entries}
        if any((holder.folder / "token").exists() for holder in self.holders()):
            raise SettingError(
                f"{self._tokens_file} is not there, and without it no token counts: copy it back from the server, or"
                " make a cluster in a new folder"
            )
        return {}

    def _check_folder(self) -> None:
        """Nothing is made among other things, nor where somebody else could put in what is believed."""
        try:
            mode, there = self.folder.stat().st_mode, os.listdir(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingError(f"{self.folder}: {error.strerror}") from None
        if there and not {"ca.key", "ca.pem", f"ca.key{PARTIAL_SUFFIX}"}.intersection(there):
            raise SettingError(f"{self.folder} has other things in it: give a folder that is new or empty")
        if there and mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingError(f"{self.folder} can be written by others: who knows what they put there; make a new one")

    def _private(self, folder: Path) -> None:
        if folder != self.folder and folder.parent != self.folder:
            self._private(folder.parent)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise SettingError(f"{folder}: {error.strerror}") from None

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_durably(path, [content])
        except OSError as error:
            raise SettingError(f"{path}: {error.strerror}") from None


def _is(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content
