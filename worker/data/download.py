"""One file from the network: resumed where it was broken off, checked, and under its name only when it is whole.

The one rule: a file that lies under its name has the SHA-256 that was asked for. Until then it is `NAME.part`, and
what is in there is never thrown away for a lost connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp

from leeway import regular
from leeway.errors import DataError
from leeway.protocol.fields import shown
from leeway.worker.data.addresses import broken_proxy, is_address
from leeway.worker.data.system import errors_of, refuse_other

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO
    from pathlib import Path
    from types import SimpleNamespace

    from leeway.worker.data.published import Download

BLOCK_BYTES: Final = 1 << 20
CONNECT_SECONDS: Final = 20.0
# A server may think for a while before it sends, and a slow line may stall; so long, nobody comes back.
SILENCE_SECONDS: Final = 60.0


class Watcher(Protocol):
    """Who is told how it goes."""

    def received(self, size_bytes: int) -> None:
        """So many bytes of the file are there."""
        ...

    def failed(self, problem: str) -> None:
        """An address failed, and the next one is tried."""
        ...


async def download(wanted: Download, folder: Path, addresses: Sequence[str], watcher: Watcher) -> None:
    """Fetch `wanted` to its place in `folder` from the first of `addresses` that has it.

    Raises `DataError`, in one line: no space, no network, a refusal, a broken connection, another SHA-256.
    """
    target = folder / wanted.path
    with errors_of(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        refuse_other(part)
        with part.open("ab+", buffering=0) as file:
            _lock(file, part)
            try:
                _require_room(folder, wanted, _size(file))
                await _from_the_first(wanted, file, addresses, watcher)
            finally:
                if not _size(file):
                    part.unlink(missing_ok=True)
            os.fsync(file.fileno())
            os.replace(part, target)


def check(path: Path, wanted: Download) -> None:
    """Raise `DataError` if the file at `path` is not the one that is wanted."""
    with errors_of(path):
        regular.check(path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.sha256:
        raise DataError(
            f"{path} is there, but its SHA-256 is {found}, not {wanted.sha256}: move it away and run this again"
        )


async def _from_the_first(wanted: Download, file: FileIO, addresses: Sequence[str], watcher: Watcher) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    # trust_env: the proxy that the environment names. Bytes are kept as they are sent.
    async with aiohttp.ClientSession(
        timeout=timeout, trust_env=True, auto_decompress=False, trace_configs=[_tracing()]
    ) as session:
        for address in addresses:
            transfer = _Transfer(session, address, wanted, file, watcher)
            try:
                await transfer.complete()
                return
            except DataError as error:
                if address == addresses[-1]:
                    raise
                watcher.failed(f"{error}; the next address is tried")


def _tracing() -> aiohttp.TraceConfig:
    """Tells a transfer where it is sent to."""

    async def redirected(_: Any, context: SimpleNamespace, of: aiohttp.TraceRequestRedirectParams) -> None:
        context.trace_request_ctx.redirected = of.response.headers.get("Location")

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(redirected)
    return tracing


class _Transfer:
    """The rest of a file from one address, or from where that sends us: `redirected`."""

    redirected: str | None = None

    def __init__(
        self, session: aiohttp.ClientSession, address: str, wanted: Download, file: FileIO, watcher: Watcher
    ) -> None:
        self._session = session
        self._address = address
        self._wanted = wanted
        self._file = file
        self._watcher = watcher

    async def complete(self) -> None:
        """Receive what is missing and check all of it; once more from the start if what was there did not fit."""
        began_at = await self._receive()
        self._file.seek(0)
        found = hashlib.file_digest(self._file, "sha256").hexdigest()
        if found == self._wanted.sha256:
            return
        self._file.truncate(0)
        if began_at:
            await self.complete()
            return
        raise DataError(
            f"{self._place} sent a file with SHA-256 {found}, not {self._wanted.sha256}: it is another or damaged, "
            "and was thrown away"
        )

    async def _receive(self) -> int:
        """Append what is missing. Returns how many bytes were there before and have been kept."""
        have = _size(self._file)
        if have == self._wanted.size_bytes:
            return have
        if have > self._wanted.size_bytes:
            have = self._begin_anew()
        self._judge_address()
        self.redirected = None
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            async with self._session.get(self._address, headers=headers, trace_request_ctx=self) as reply:
                if have and reply.status in (200, 416):
                    # It knows no ranges, and what follows is the whole; or it has no such one, and is asked again.
                    have = self._begin_anew()
                    if reply.status == 416:
                        return await self._receive()
                self._judge(reply, have)
                await self._take(reply, have)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError):
            # A name that no host can have is a `UnicodeError`. Our own address has been judged.
            raise DataError(
                f"{self._address} redirects to {shown(self.redirected)}, which is no address of http or https"
            ) from None
        except aiohttp.TooManyRedirects:
            raise DataError(f"{self._address} redirects again and again, at last to {shown(self.redirected)}") from None
        except aiohttp.ClientHttpProxyError as error:
            raise DataError(f"{self._place}: the proxy answers {error.status} {error.message}".rstrip()) from None
        except aiohttp.ClientConnectorError as error:
            proxy = " through the proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
            raise DataError(f"{self._place} cannot be reached{proxy} ({error})") from None
        except TimeoutError:
            raise DataError(f"{self._place} is silent: {self._progress()}") from None
        except aiohttp.ClientError as error:
            # A connection that breaks off, in one of the several ways in which it does.
            raise DataError(f"{self._place} broke off ({type(error).__name__}): {self._progress()}") from None
        if _size(self._file) < self._wanted.size_bytes:
            raise DataError(f"{self._place} has ended too early: {self._progress()}")
        return have

    @property
    def _place(self) -> str:
        """Who is spoken of."""
        return self._address if self.redirected is None else f"{self._address} (redirected to {shown(self.redirected)})"

    def _judge_address(self) -> None:
        """Raise `DataError` for an address, or a proxy for it, that cannot be one."""
        if not is_address(self._address):
            raise DataError(f"{self._address!r} is no address of http or https with a host")
        if variable := broken_proxy(self._address):
            raise DataError(
                f"the environment variable {variable} names no proxy: it must be an address such as http://proxy:3128"
            )

    def _judge(self, reply: aiohttp.ClientResponse, have: int) -> None:
        """Raise `DataError` unless what follows begins at byte `have`."""
        begins = reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if reply.status != (206 if have else 200) or (have and not begins):
            raise DataError(f"{self._place} answers {reply.status} {reply.reason}".rstrip())

    async def _take(self, reply: aiohttp.ClientResponse, have: int) -> None:
        self._watcher.received(have)
        while block := await self._block(reply):
            have += len(block)
            if have > self._wanted.size_bytes:
                self._begin_anew()
                raise DataError(
                    f"{self._place} sends more than the {self._wanted.size_bytes} bytes of {self._wanted.path}: "
                    "it is another file"
                )
            self._file.write(block)
            self._watcher.received(have)

    async def _block(self, reply: aiohttp.ClientResponse) -> bytes:
        # aiohttp's own limit ends with the connection, and it does not always tell a reader that a broken chunk has
        # ended that.
        async with asyncio.timeout(SILENCE_SECONDS):
            return await reply.content.read(BLOCK_BYTES)

    def _begin_anew(self) -> int:
        self._file.truncate(0)
        return 0

    def _progress(self) -> str:
        return f"{_size(self._file)} of {self._wanted.size_bytes} bytes are there, run this again to go on"


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _require_room(folder: Path, wanted: Download, have: int) -> None:
    needed = wanted.size_bytes - have + sum(member.size_bytes for member in wanted.members)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"no space: {wanted.path} needs {needed} bytes more in {folder}, and {free} are free")


def _lock(file: FileIO, part: Path) -> None:
    """Two that append to the same file would spoil it."""
    # Windows has no flock; there a second one on the same folder is the user's to avoid.
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(f"{part} is being written by another ps-data; wait for its end, or end it") from None
