"""The server's events as they come over HTTP: `text/event-stream` (HTML Living Standard, section 9.2).

The one rule: what listens can always be told why it hears nothing. Silence, an end and a lost connection are `Lost`,
which may pass; whoever is no Leeway server, or turns us away, is `Refused`.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol import documents, routes
from leeway.transport.credentials import distrust
from leeway.transport.credentials.credentials import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leeway.transport.credentials.credentials import Credentials

# The server says something every two seconds at least.
SILENCE_SECONDS = 10.0

# A state of 10,000 workers has 5 MB. What is longer than this is no message of ours.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

_MAX_PROBLEM_BYTES = 65_536
_READ_BYTES = 262_144


class Lost(Exception):
    """The server does not answer now: it may come back."""


class Refused(Exception):
    """What answers is no Leeway server, or does not want us: to ask again changes nothing."""


@dataclass(frozen=True, slots=True)
class Message:
    """`data` is JSON, decoded. `id`: the newest that was told, to go on from after a loss."""

    event: str
    data: Any
    id: str = ""


class Parser:
    """Makes messages of a stream's bytes, however they are cut. Lines end with CR, LF or both."""

    def __init__(self) -> None:
        self.id = ""
        self._rest = bytearray()
        self._searched = 0
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> Iterator[tuple[str, str, str]]:
        """Event, data and id of each message that is complete with these bytes. To be gone through to its end.

        Raises `ValueError` when a message is too long or no UTF-8.
        """
        self._rest += data
        while (line := self._next_line()) is not None:
            if line:
                self._take(line)
            elif self._data:
                message = self._event or "message", "\n".join(self._data), self.id
                self._event, self._data, self._data_bytes = "", [], 0
                yield message
            else:
                self._event = ""
        if len(self._rest) + self._data_bytes > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")

    def _next_line(self) -> str | None:
        if self._after_cr and self._rest:
            # The second half of a CR LF.
            if self._rest[0] == 0x0A:
                del self._rest[0]
            self._after_cr = False
        ends = [place for end in (b"\n", b"\r") if (place := self._rest.find(end, self._searched)) >= 0]
        if not ends:
            self._searched = len(self._rest)
            return None
        end = min(ends)
        line = self._rest[:end].decode()
        self._after_cr = self._rest[end] == 0x0D
        del self._rest[: end + 1]
        self._searched = 0
        return line

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
                self._data_bytes += len(value)
            case "id" if "\0" not in value:
                self.id = value
            case _:
                pass  # a comment, or a field that is not for us


def listen(
    url: str, last_id: str = "", *, credentials: Credentials = NOTHING, silence_seconds: float = SILENCE_SECONDS
) -> Iterator[Message]:
    """What the server at `url` tells, from the present state on; of the decisions, those after `last_id`.

    It ends with `Lost` or `Refused`, never by itself.
    """
    headers = {"Accept": routes.EVENT_STREAM, **credentials.headers} | ({"Last-Event-ID": last_id} if last_id else {})
    request = urllib.request.Request(url + routes.EVENTS, headers=headers)
    # As everywhere here: the address that was given is the one that is asked.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=credentials.to_client()))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=silence_seconds) as response:
            if response.headers.get_content_type() != routes.EVENT_STREAM:
                raise Refused(f"{url} answered with {response.headers.get_content_type()}; is that a Leeway server?")
            parser = Parser()
            while data := response.read1(_READ_BYTES):
                for event, text, number in parser.feed(data):
                    yield Message(event, documents.parse(text), number)
    except urllib.error.HTTPError as error:
        with error:
            # A server that is busy or about to stop, or a proxy before one that is not there.
            raise (Lost if error.code >= 500 else Refused)(_why(url, error)) from None
    except urllib.error.URLError as error:
        if distrusted := distrust.in_words(error, url):
            raise Refused(distrusted) from None
        raise Lost(f"no connection to {url}: {_reason(error.reason)}") from None
    except TimeoutError:
        raise Lost(f"{url} is silent") from None
    except (OSError, http.client.HTTPException) as error:
        if distrusted := distrust.in_words(error, url):
            raise Refused(distrusted) from None
        raise Lost(f"the connection to {url} was lost: {_reason(error)}") from None
    except ValueError as error:
        raise Refused(f"what {url} sends cannot be read: {error}; is that a Leeway server?") from None
    raise Lost(f"{url} has ended the connection")


def _why(url: str, error: urllib.error.HTTPError) -> str:
    """The words of a problem document (RFC 9457), or the status of somebody else's answer."""
    if error.headers.get_content_type() == routes.PROBLEM:
        try:
            return f"{url}: {documents.parse(error.read(_MAX_PROBLEM_BYTES))['detail']}"
        except (OSError, ValueError, LookupError, TypeError):
            pass
    return f"{url} answered HTTP {error.code}; is that a Leeway server?"


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ssl.SSLError):
        return f"no TLS as this side speaks it, is it http:// there? {(error.reason or '').lower().replace('_', ' ')}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
