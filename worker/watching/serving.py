"""Where a worker's metrics can be read: `GET /metrics`, answered by the event loop that its requests go through.

The one rule: it lives as long as its client, and ends with it, however that ends.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from leeway.errors import SettingError
from leeway.protocol import routes
from leeway.protocol.addresses import is_host, is_loopback
from leeway.protocol.fields import shown
from leeway.transport.http.gate import Gate
from leeway.transport.http.listener import Listener
from leeway.worker import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

    from leeway.transport.credentials.credentials import Credentials
    from leeway.worker.blocking import BlockingClient

PORT_VARIABLE = "PS_METRICS_PORT"
HOST_VARIABLE = "PS_METRICS_HOST"
INSECURE_VARIABLE = "PS_METRICS_INSECURE"

DEFAULT_HOST = "127.0.0.1"

# A scrape that comes without a word for so long is none.
_LEASE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """An address to listen at; port 0: one that the system picks. `insecure`: for anybody, wherever that is."""

    host: str
    port: int
    insecure: bool = False

    @classmethod
    def chosen(
        cls, port: int | None, host: str | None, environ: Mapping[str, str] = os.environ, *, insecure: bool = False
    ) -> Place | None:
        """As the arguments say, else the environment; None: nobody wants metrics. Raises `ValueError`."""
        host = arguments.text("metrics_host", host, DEFAULT_HOST)
        name = "metrics_port"
        if port is None:
            text = environ.get(PORT_VARIABLE)
            if not text:
                if host is not None:
                    raise ValueError(
                        f"metrics_host is {shown(host)}, and no metrics are served: give metrics_port= too (0: a free"
                        f" one), or set {PORT_VARIABLE}"
                    )
                return None
            name = f"the environment variable {PORT_VARIABLE}"
            port = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
            if port is None:
                raise ValueError(f"{name} is {shown(text)}, it must be a port, or 0 for a free one")
        port = arguments.integer(name, port, 0, 65535)
        host = host or environ.get(HOST_VARIABLE) or DEFAULT_HOST
        if not is_host(host):
            raise ValueError(f"metrics_host is {shown(host)}, it must be an address or a name to listen at")
        return cls(host, port, insecure or environ.get(INSECURE_VARIABLE) in ("1", "true"))

    def check(self, credentials: Credentials) -> None:
        """Raise `SettingError` where anybody could read them, and nobody has said so."""
        if not (is_loopback(self.host) or self.insecure or credentials.to_listener()):
            raise SettingError(
                f"at {self.host} whoever reaches the metrics port could read them: give ca, cert and key (PS_TLS_CA,"
                " PS_TLS_CERT, PS_TLS_KEY), and they are for who shows a certificate of that authority; or set"
                f" {INSECURE_VARIABLE}=1"
            )


async def _point_to_metrics(_: web.Request) -> web.Response:
    return web.Response(text=f"the metrics of this worker are at {routes.METRICS}\n")


def serve(client: BlockingClient, registry: CollectorRegistry, place: Place) -> str:
    """Serve them until `client` ends; the URL. Beyond this machine they are for who shows a certificate of its own
    authority. Raises `SettingError` when the address cannot be had."""
    beyond = not is_loopback(place.host)
    tls = client.client.credentials.to_listener() if beyond and not place.insecure else None
    # By which names it is asked beyond this machine is not known here; a certificate says more.
    gate = Gate(hosts=None if beyond else (place.host,))

    async def begin() -> str:
        listener = Listener(
            [web.get(routes.METRICS, make_aiohttp_handler(registry)), web.get("/", _point_to_metrics)],
            lease_seconds=_LEASE_SECONDS,
            gate=gate,
            tls=tls,
        )
        client.end_with(listener.stop)
        try:
            return await listener.start(place.host, place.port) + routes.METRICS
        except OSError as error:
            words = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise SettingError(
                f"the metrics port {place.port} at {place.host} cannot be had: {words}; choose another, or 0 for a"
                " free one"
            ) from None

    return client.run(begin)
