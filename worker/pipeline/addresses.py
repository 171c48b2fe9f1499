"""Where the other stages find this one."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from leeway.errors import SettingError
from leeway.protocol.addresses import is_host
from leeway.protocol.fields import shown


def route_to(server: str) -> str:
    """This machine's own address on the way to the server's URL: what the server's other clients reach it by, where no
    NAT is in between. Raises `SettingError`.

    A datagram socket that is connected has an address of its own, and nothing is sent.
    """
    parts = urlsplit(server)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise _unknown(server, error) from None
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(address)
            except OSError as error:
                why = error
                continue
            return str(probe.getsockname()[0])
    raise _unknown(server, why)


def _unknown(server: str, error: OSError) -> SettingError:
    return SettingError(
        f"there is no way to {server} from here ({error.strerror}), so that this stage cannot tell the others its own"
        " address: give it one to advertise"
    )


def advertised(bound: str, route: str, advertise: str | None = None) -> str:
    """The URL for the other stages, of a door that listens at the URL `bound`.

    `advertise`: HOST or HOST:PORT by which they reach it, through NAT for example. Without it they are told the address
    that is listened at, or, where that is any (0.0.0.0, ::), `route`. Raises `ValueError`.
    """
    parts = urlsplit(bound)
    assert parts.hostname is not None
    assert parts.port is not None
    if advertise is None:
        return url(parts.scheme, route if ip_address(parts.hostname).is_unspecified else parts.hostname, parts.port)
    try:
        told = urlsplit(f"//{advertise}")
        host, port = told.hostname, told.port
    except ValueError:
        host, port = None, None
    if not host or not is_host(host) or told.netloc != advertise or "@" in advertise or port == 0:
        raise ValueError(
            f"the address to advertise is {shown(advertise)}; it must be HOST or HOST:PORT, IPv6 as [HOST]"
        )
    return url(parts.scheme, host, port or parts.port)


def url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
