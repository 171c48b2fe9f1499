"""An authority of one's own, and the certificates that it signs.

The one rule: a key leaves the folder in which it was made by hand alone; whoever has the authority's can be anybody.
"""

from __future__ import annotations

import datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTHORITY_DAYS: Final = 3650
DAYS: Final = 90

# Clocks of machines differ: a certificate is good a little before it was made.
_SKEW: Final = datetime.timedelta(hours=1)


class Authority:
    """A certificate that signs others, with its key. Made by `draw` or `load`."""

    def __init__(self, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._cert = cert
        self._key = key

    @classmethod
    def draw(cls, name: str, now: datetime.datetime) -> Authority:
        """A new one. It can sign what is at the end of a chain, and no other authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = (
            _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(cert, key)

    @classmethod
    def load(cls, cert: bytes, key: bytes) -> Authority:
        """From PEM. Raises `ValueError`."""
        loaded, known = _loaded(key), x509.load_pem_x509_certificate(cert)
        if known.public_key() != loaded.public_key():
            raise ValueError("the key is not that of the certificate")
        return cls(known, loaded)

    @property
    def cert_pem(self) -> bytes:
        return self._cert.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return _pem(self._key)

    @property
    def ends(self) -> datetime.datetime:
        return self._cert.not_valid_after_utc

    def has_issued(self, cert: x509.Certificate) -> bool:
        """Whether it is signed by this authority."""
        try:
            cert.verify_directly_issued_by(self._cert)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def issue(self, name: str, hosts: Sequence[str], key: bytes, now: datetime.datetime, days: int = DAYS) -> bytes:
        """A certificate of this key, in PEM, for somebody of that name who is reached by these hosts. Everybody may be
        asked and ask: a stage of a pipeline does both. It does not outlive the authority. Raises `ValueError`."""
        if self.ends <= now:
            raise ValueError(f"its certificate has ended, at {self.ends:%Y-%m-%d %H:%M} UTC")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, self._cert.subject, _loaded(key).public_key(), now, days, self.ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(_issuer(self._cert), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_alternative, hosts))), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def draw_key() -> bytes:
    """A new one, in PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def is_of(cert: x509.Certificate, key: bytes) -> bool:
    """Whether this key is the certificate's. Raises `ValueError`."""
    return cert.public_key() == _loaded(key).public_key()


def _loaded(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from None  # encrypted
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("it is of another kind than those that ps-keys makes")
    return loaded


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(end if latest is None else min(end, latest))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer(cert: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
