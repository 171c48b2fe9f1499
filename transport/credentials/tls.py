"""TLS on both sides: what a listener shows, whom it lets in, whom a client trusts.

The one rule: nothing below TLS 1.2, and no switch that leaves a certificate unchecked. What is wrong with a file is
said before anything listens or is sent.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from leeway import regular
from leeway.errors import SettingError
from leeway.transport.credentials import secret_files
from leeway.transport.credentials.handshakes import ListenerContext

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.x509 import Certificate


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate, with those that lead to its authority behind it, and its key: PEM files."""

    cert: Path
    key: Path

    def load(self, context: ssl.SSLContext) -> None:
        """Show it from the next connection on. Raises `SettingError`; the context is as it was then."""
        _check(self.cert, "certificate")
        secret_files.read(self.key, "key")
        # A context takes the certificate before it finds that the key is another's: tried on one that nobody uses.
        for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
            try:
                each.load_cert_chain(self.cert, self.key, password=_no_password)
            except _Encrypted:
                raise SettingError(
                    f"key {self.key} is encrypted: give one without a password, readable by you alone"
                ) from None
            except ssl.SSLError as error:
                if error.reason == "KEY_VALUES_MISMATCH":
                    raise SettingError(f"key {self.key} is not that of the certificate {self.cert}") from None
                raise SettingError(
                    f"certificate {self.cert} with key {self.key}: no PEM, or damaged ({error.reason})"
                ) from None
        if isinstance(context, ListenerContext):
            context.ends = self.ends()

    def ends(self) -> datetime:
        """When the certificate does, in UTC."""
        return certificate(self.cert).not_valid_after_utc


def for_listener(pair: KeyPair, client_ca: Path | None = None) -> ListenerContext:
    """`client_ca`: whoever connects shows a certificate of one of these authorities. Raises `SettingError`."""
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    pair.load(context)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def for_client(ca: Path | None = None, pair: KeyPair | None = None) -> ssl.SSLContext:
    """`ca`: the authorities that are trusted, instead of the system's. `pair`: what is shown to a listener that asks.
    Raises `SettingError`."""
    context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        _trust(context, ca)
    if pair is not None:
        pair.load(context)
    return context


def certificate(path: Path) -> Certificate:
    """The first one in the file. Raises `SettingError`."""
    from cryptography import x509

    _check(path, "certificate")
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingError(f"certificate {path} is no PEM certificate: {error}") from None


def names(path: Path) -> tuple[str, ...]:
    """The names and addresses that the certificate is for."""
    from cryptography import x509

    try:
        found = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *found.get_values_for_type(x509.DNSName),
        *(str(address) for address in found.get_values_for_type(x509.IPAddress)),
    )


def now() -> datetime:
    return datetime.now(UTC)


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    _check(ca, "CA file")
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise SettingError(f"CA file {ca} has no PEM certificate in it ({error.reason or error})") from None


def _check(path: Path, what: str) -> None:
    try:
        regular.check(path)
        path.open("rb").close()
    except OSError as error:
        raise SettingError(f"{what} {path}: {error.strerror}") from None


class _Encrypted(Exception):
    """A password is asked for."""


def _no_password() -> str:
    raise _Encrypted
