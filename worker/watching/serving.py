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
from leeway.protocol.addresses import is_host
from leeway.protocol.fields import shown
from leeway.worker import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

    from leeway.worker.blocking import BlockingClient

PORT_VARIABLE = "PS_METRICS_PORT"
HOST_VARIABLE = "PS_METRICS_HOST"

DEFAULT_HOST = "127.0.0.1"

# For a scrape that is under way when the worker ends.
LAST_SCRAPE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """An address to listen at; port 0: one that the system picks."""

    host: str
    port: int

    @classmethod
    def chosen(cls, port: int | None, host: str | None, environ: Mapping[str, str] = os.environ) -> Place | None:
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
        return cls(host, port)


async def _point_to_metrics(_: web.Request) -> web.Response:
    return web.Response(text=f"the metrics of this worker are at {routes.METRICS}\n")


def serve(client: BlockingClient, registry: CollectorRegistry, place: Place) -> str:
    """Serve them until `client` ends; the URL. Raises `SettingError` when the address cannot be had."""
    app = web.Application()
    app.router.add_get(routes.METRICS, make_aiohttp_handler(registry))
    app.router.add_get("/", _point_to_metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=LAST_SCRAPE_SECONDS)
    client.end_with(runner.cleanup)

    async def begin() -> str:
        await runner.setup()
        try:
            await web.TCPSite(runner, place.host, place.port).start()
        except OSError as error:
            words = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise SettingError(
                f"the metrics port {place.port} at {place.host} cannot be had: {words}; choose another, or 0 for a"
                " free one"
            ) from None
        host, port = runner.addresses[0][:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{routes.METRICS}"

    return client.run(begin)
