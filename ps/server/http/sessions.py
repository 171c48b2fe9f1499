"""Browsers that have shown a token: each is known by a cookie for a while.

The one rule: a cookie is worth no more than the token that it was given for, and for a short time; a script of the page
cannot read it, and no other site has it sent.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.rights import Right
from leeway.transport.credentials import tokens
from leeway.transport.http import receiving
from leeway.transport.http.gate import CALLER
from leeway.transport.quotas import Quota

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.protocol.rights import Caller
    from leeway.transport.http.gate import Gate

# Of silence: a page that is open is never silent.
IDLE_SECONDS: Final = 3600.0

# However much it is used: a working day. Whoever has left a page open shows the token again.
LIFE_SECONDS: Final = 8 * 3600.0

# More than there are people who look; the one that was silent for longest goes first.
MOST: Final = 1000

# Wrong tokens that one address may show here in a second, after a burst of ten times as many. What keeps a token safe
# is its 256 random bits; this keeps a program that tries out passwords from filling counts and connections.
WRONG_PER_SECOND: Final = 1.0

_COOKIE: Final = "leeway"


@dataclass(slots=True)
class _Session:
    """`sha256`: of the token that was shown. `idle_at`, `ends_at`: when it ends, unless it is used, and for good."""

    sha256: str
    idle_at: float
    ends_at: float


class Sessions:
    """`clock`: monotonic. `secure`: the listener has TLS, so the cookie never goes without."""

    def __init__(self, clock: Callable[[], float], *, secure: bool) -> None:
        self._clock = clock
        self._secure = secure
        # By cookie. The least recently used first.
        self._open: OrderedDict[str, _Session] = OrderedDict()
        self._wrong = Quota(WRONG_PER_SECOND)

    def sha256(self, request: web.Request) -> str | None:
        """Of the token that this browser has shown."""
        cookie, now = request.cookies.get(self._name(request), ""), self._clock()
        session = self._open.get(cookie)
        if session is None:
            return None
        if min(session.idle_at, session.ends_at) <= now:
            del self._open[cookie]
            return None
        session.idle_at = now + IDLE_SECONDS
        self._open.move_to_end(cookie)
        return session.sha256

    def begin(self, request: web.Request, caller: Caller, token: str) -> web.Response:
        """With a cookie of its own; the one that came with the request is worth nothing from here on."""
        self._forget(request)
        cookie, now = secrets.token_urlsafe(32), self._clock()
        self._open[cookie] = _Session(tokens.digest(token), now + IDLE_SECONDS, now + LIFE_SECONDS)
        while len(self._open) > MOST:
            self._open.popitem(last=False)
        response = web.json_response(told(caller, asked=True))
        response.set_cookie(
            self._name(request), cookie, httponly=True, samesite="Strict", secure=self._secure, path="/"
        )
        return response

    def end(self, request: web.Request) -> web.Response:
        self._forget(request)
        response = web.Response(status=204)
        response.del_cookie(self._name(request), httponly=True, samesite="Strict", secure=self._secure, path="/")
        return response

    def check_attempts(self, request: web.Request) -> None:
        """Raise `WireError` where too many wrong tokens came from this address a moment ago."""
        wait = self._wrong.wait_seconds(str(request.remote), self._clock())
        if wait > 0:
            raise WireError(
                Code.OVER_QUOTA,
                f"too many wrong tokens came from this address; try again in {math.ceil(wait)} s",
                retry_after_seconds=math.ceil(wait),
            )

    def was_wrong(self, request: web.Request) -> None:
        self._wrong.pay(str(request.remote), 1, self._clock())

    def _forget(self, request: web.Request) -> None:
        self._open.pop(request.cookies.get(self._name(request), ""), None)

    def _name(self, request: web.Request) -> str:
        """Browsers send a host's cookies to all its ports: each server has a name of its own."""
        local = request.transport.get_extra_info("sockname") if request.transport is not None else None
        port = f"-{local[1]}" if local else ""
        return f"{'__Host-' if self._secure else ''}{_COOKIE}{port}"


def told(caller: Caller, *, asked: bool) -> dict[str, Any]:
    """Who somebody is here. `asked`: whether a token is asked for."""
    return {
        "name": caller.name,
        "rights": sorted(right for right in Right if caller.may(right)),
        "token_asked_for": asked,
    }


class SessionRoutes:
    """What is asked at `/v1/session`."""

    def __init__(self, gate: Gate, sessions: Sessions) -> None:
        self._gate = gate
        self._sessions = sessions

    async def show(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(told(request[CALLER], asked=self._gate.tokens is not None))

    async def begin(self, request: web.Request) -> web.StreamResponse:
        if hdrs.ORIGIN not in request.headers and hdrs.COOKIE in request.headers:
            raise WireError(Code.FOREIGN, "a login has to come from this server's own page")
        self._sessions.check_attempts(request)
        body = await receiving.json_body(request, limits.MAX_CONTROL_BYTES)
        token = body.get("token")
        if not isinstance(token, str) or set(body) != {"token"}:
            raise MalformedRequest('a session begins with {"token": "..."}')
        token = token.strip()
        caller = self._gate.tokens.caller(token) if self._gate.tokens is not None else None
        if caller is None:
            self._sessions.was_wrong(request)
            raise WireError(Code.UNAUTHENTICATED, "this token is not known here")
        return self._sessions.begin(request, caller, token)

    async def end(self, request: web.Request) -> web.StreamResponse:
        return self._sessions.end(request)
