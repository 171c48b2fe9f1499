"""What a process shows others, and whom it believes: one object for every client and every listener.

The one rule: it is read from files, whose names may be given and stand in variables; a secret itself is in neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from leeway.errors import SettingError
from leeway.transport.credentials import secret_files, tls
from leeway.transport.credentials.bearer import Bearer
from leeway.transport.credentials.tls import KeyPair

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Mapping

    from leeway.transport.credentials.handshakes import ListenerContext

TOKEN_VARIABLE: Final = "PS_TOKEN_FILE"
CA_VARIABLE: Final = "PS_TLS_CA"
CERT_VARIABLE: Final = "PS_TLS_CERT"
KEY_VARIABLE: Final = "PS_TLS_KEY"


@dataclass(frozen=True, slots=True)
class Credentials:
    """`bearer`: the token that is shown. `ca`: whose certificates are believed, by default the system's authorities'.
    `pair`: the own certificate.
    """

    bearer: Bearer | None = None
    ca: Path | None = None
    pair: KeyPair | None = None

    @classmethod
    def chosen(
        cls,
        environ: Mapping[str, str],
        token_file: str | os.PathLike[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> Self:
        """What was given, else what the variables say. Raises `SettingError`, also for what cannot be read."""
        token_path, ca_path, cert_path, key_path = (
            _path(given if given is not None else environ.get(variable))
            for given, variable in (
                (token_file, TOKEN_VARIABLE),
                (ca, CA_VARIABLE),
                (cert, CERT_VARIABLE),
                (key, KEY_VARIABLE),
            )
        )
        if (cert_path is None) != (key_path is None):
            there, missing = ("certificate", KEY_VARIABLE) if cert_path else ("key", CERT_VARIABLE)
            raise SettingError(f"there is a {there} alone: give the other one too ({missing})")
        bearer = None
        if token_path is not None:
            try:
                bearer = Bearer(secret_files.read_token(token_path))
            except SettingError:
                raise
            except ValueError as error:
                raise SettingError(f"token file {token_path}: {error}") from None
        pair = KeyPair(cert_path, key_path) if cert_path is not None and key_path is not None else None
        found = cls(bearer, ca_path, pair)
        if ca_path is not None or pair is not None:
            found.to_client()  # what is wrong with the files is said now
        return found

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.bearer is None else self.bearer.headers

    def to_client(self) -> ssl.SSLContext:
        """For whoever connects to an https address. Raises `SettingError`."""
        return tls.for_client(self.ca, self.pair)

    def to_neighbour(self) -> ssl.SSLContext | None:
        """For whoever connects to another of this cluster, whose certificate is the authority's and for no address: a
        worker is wherever it runs. None: there is no TLS between workers."""
        if self.ca is None or self.pair is None:
            return None
        context = self.to_client()
        context.check_hostname = False
        return context

    def to_listener(self) -> ListenerContext | None:
        """For a worker that others of its cluster connect to: they show a certificate of the same authority."""
        if self.ca is None or self.pair is None:
            return None
        return tls.for_listener(self.pair, self.ca)


NOTHING: Final = Credentials()


def _path(text: str | os.PathLike[str] | None) -> Path | None:
    return Path(text) if text else None
