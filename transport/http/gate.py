"""Who is let in at a listener, and for what.

The one rule: whoever asks is known before anything of what they ask for is read or done. Where nobody needs a token a
browser is still not made the tool of a foreign page: what another origin sends is refused, and so is a name of this
machine that only somebody else's name server gives it.
"""

from __future__ import annotations

import math
import socket
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code
from leeway.protocol.rights import Caller, Callers, Right, needed
from leeway.transport.credentials.tokens import LOOKS_LIKE_A_TOKEN
from leeway.transport.http.connection import NO_ROUTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from leeway.transport.credentials.tokens import Tokens
    from leeway.transport.quotas import Quotas

ANYBODY: Final = Caller("anybody", frozenset(Right))
"""Whoever comes where no token is asked for."""

NOBODY: Final = Caller("nobody", frozenset())
"""Whoever shows none where one is asked for."""

# Where programs put tokens in addresses: RFC 6750, 2.3, and other habits.
_TOKENS_IN_QUERIES: Final = ("access_token", "token", "auth", "api_key")

# What is known of a request: who asks, for what, and under which rank.
CALLER: Final = web.RequestKey("caller", Caller)
ROUTE: Final = web.RequestKey("route", str)
RANK: Final = web.RequestKey("rank", str)

_SAFE: Final = (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)


class Sessions(Protocol):
    """Whom browsers are, by their cookies."""

    def sha256(self, request: web.Request) -> str | None:
        """Of the token that this browser has shown."""


class Gate:
    """`tokens`: those that are taken, None: nobody needs one. `hosts`: names, beside addresses and this machine's own,
    under which it may be asked; None: any. `quotas`: of each token, and of each rank.
    """

    def __init__(
        self,
        tokens: Tokens | None = None,
        hosts: Iterable[str] | None = (),
        sessions: Sessions | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self.tokens = tokens
        self._quotas = quotas
        self._sessions = sessions
        self._hosts = None if hosts is None else {"localhost", socket.gethostname().lower(), *map(str.lower, hosts)}
        # Requests that are being answered, those that wait among them, by identity: they have no hash.
        self._open: dict[int, web.Request] = {}

    @property
    def callers(self) -> Callers:
        return self.tokens.callers if self.tokens is not None else Callers()

    def admit(self, request: web.Request, route: str) -> None:
        """Find out who asks, and keep it under `CALLER`. Raises `WireError` where that one may not do this; nothing of
        the body has been read."""
        request[ROUTE] = route
        self._check_host(request)
        self._check_origin(request)
        _check_address(request)
        caller = self._caller(request)
        request[CALLER] = caller
        if route != NO_ROUTE:
            self.callers.check(caller, needed(request.method, route))
        # Where there is nothing, whoever is known is told so.
        if caller is not NOBODY and caller is not ANYBODY:
            self._ask(request, _of_token(caller), f"the token {caller.name}")

    def admits_still(self, request: web.Request) -> bool:
        """Whether this request, which was let in, would be let in now: tokens and sessions come to their end."""
        try:
            caller = self._caller(request)
            self.callers.check(caller, needed(request.method, request[ROUTE]), request.get(RANK))
        except WireError:
            return False
        return True

    @contextmanager
    def answering(self, request: web.Request) -> Iterator[None]:
        """Around what is done with a request that was let in."""
        self._open[id(request)] = request
        try:
            yield
        finally:
            del self._open[id(request)]

    def take(self, tokens: Tokens) -> None:
        """Other tokens count from here on. Who waits for something and would not be let in any more is cut off, as if
        the network had failed: what was accepted stays, and whoever asks again is told why not.
        """
        self.tokens = tokens
        for request in list(self._open.values()):
            if request.transport is not None and not self.admits_still(request):
                request.transport.abort()

    @staticmethod
    def knows(request: web.Request) -> bool:
        """Whether whoever asks has shown a token, or need not."""
        return request.get(CALLER, NOBODY) is not NOBODY

    def check_rank(self, request: web.Request, rank: str) -> None:
        """Raise `WireError` unless whoever asks may be this worker, and ask now."""
        if self.tokens is not None:
            self.callers.check(request[CALLER], Right.WORKER, rank)
        self._ask(request, _of_rank(rank), f"rank {rank}")
        # Whoever is refused here has sent its body already: if it paid for that it might never come out of debt.
        request[RANK] = rank

    def carried(self, request: web.Request, size_bytes: int) -> None:
        """So many bytes of bodies came with a request, and went out with its answer."""
        if self._quotas is None:
            return
        if self.tokens is not None and CALLER in request:
            self._quotas.carried(_of_token(request[CALLER]), size_bytes)
        if RANK in request:
            self._quotas.carried(_of_rank(request[RANK]), size_bytes)

    def _ask(self, request: web.Request, name: str, who: str) -> None:
        heartbeat = request[ROUTE] == routes.LEASE
        wait = self._quotas.ask(name, heartbeat=heartbeat) if self._quotas is not None else 0.0
        if wait > 0:
            raise WireError(
                Code.OVER_QUOTA,
                f"{who} has asked for more than this server gives it in a second; ask again in {wait:.1f} s",
                retry_after_seconds=math.ceil(wait),
            )

    def _caller(self, request: web.Request) -> Caller:
        """Who asks. Raises `WireError` for a token that is not known, and for none where one is needed."""
        if self.tokens is None:
            return ANYBODY
        caller = self._shown(request, self.tokens)
        if caller is not None:
            return caller
        if needed(request.method, request[ROUTE]) is None:
            return NOBODY
        raise WireError(
            Code.UNAUTHENTICATED,
            "this server asks for a token: send it as Authorization: Bearer TOKEN (workers read theirs from"
            " PS_TOKEN_FILE)",
        )

    def _shown(self, request: web.Request, tokens: Tokens) -> Caller | None:
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            caller = tokens.caller(token.strip()) if scheme.lower() == "bearer" else None
            if caller is None:
                raise WireError(
                    Code.UNAUTHENTICATED,
                    "this token is not, or no longer, known here; ask whoever runs the server for another"
                    if scheme.lower() == "bearer"
                    else "a token is sent as Authorization: Bearer TOKEN",
                )
            return caller
        sha256 = self._sessions.sha256(request) if self._sessions is not None else None
        if sha256 is None:
            return None
        # A browser sends its cookie along whoever has it ask: what changes something has to come from our own page.
        if request.method not in _SAFE and hdrs.ORIGIN not in request.headers:
            raise WireError(Code.FOREIGN, f"{request.method} with a cookie has to come from this server's own page")
        return tokens.of_hash(sha256)

    def _check_host(self, request: web.Request) -> None:
        host = request.headers.get(hdrs.HOST)
        if host is None or self._hosts is None:
            return
        name = _name(f"//{host}")
        if name not in self._hosts and not _is_address(name):
            raise WireError(
                Code.FOREIGN,
                f"this server is not {host[:80]!r} that it knows of; where that is a name of its own, start it with"
                f" --allowed-host {name[:80] or 'NAME'}",
            )

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and _netloc(origin) != request.headers.get(hdrs.HOST, "").lower():
            raise WireError(Code.FOREIGN, f"a page of {origin[:80]!r} is not this server's, and may ask for nothing")


def _of_token(caller: Caller) -> str:
    return f"token {caller.name}"


def _of_rank(rank: str) -> str:
    return f"rank {rank}"


def _check_address(request: web.Request) -> None:
    if LOOKS_LIKE_A_TOKEN.search(request.path_qs) or any(name in request.query for name in _TOKENS_IN_QUERIES):
        raise MalformedRequest(
            "a token in an address stands in logs and histories: send it as Authorization: Bearer TOKEN, and have this"
            " one replaced"
        )


def _netloc(origin: str) -> str | None:
    """None: it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
