"""The life of a server process: from its settings to its exit code.

The one rule: however it ends, every parked request is answered first; and when it ends in good order, the state is
saved before the process is gone. A state that is no longer what was acknowledged is not saved.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import structlog

from leeway import interrupts
from leeway.errors import SettingError
from leeway.protocol.capacity import Capacity
from leeway.ps.arithmetic.aggregation.registry import rule
from leeway.ps.arithmetic.guards import GuardMode
from leeway.ps.arithmetic.parameters import Parameters
from leeway.ps.core import saved as core
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.server.entrance import Entrance
from leeway.ps.server.pauses import TICK_SECONDS
from leeway.ps.server.runtime import Runtime
from leeway.ps.server.saving import Kept, Saving, offer_initial
from leeway.ps.storage.files import in_words
from leeway.ps.watching import logs
from leeway.ps.watching.history import History, plain
from leeway.ps.watching.metrics import ServerMetrics
from leeway.transport import descriptors
from leeway.transport.memory.glibc import keep_freed_memory
from leeway.transport.memory.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from leeway.ps.settings.config import GroupConfig, ServerConfig
    from leeway.ps.watching.metrics import GroupView
    from leeway.transport.http.listener import Listener

# After the last iteration workers ask once more, are told that the run is finished, and leave.
GOODBYE_SECONDS = 5.0


def serve(config: ServerConfig) -> int:
    """Serve until SIGTERM, SIGINT or the end of the run. Returns the exit code: 0, or 1 after a failure of our own and
    where the last state could not be saved.

    Prints the address as the first line on stdout. Raises `SettingError` for what the user can mend: a port in use, an
    unreadable checkpoint, initial values that are none.
    """
    logs.configure(config.log_level, config.log_format)
    keep_freed_memory()
    descriptors.raise_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as loop:
        code = loop.run(_Server(config).run())
        interrupts.ignore()
        return code


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def machine_settings(config: ServerConfig) -> Settings:
    """What the pure core needs of the configuration."""
    return Settings(
        groups=tuple(
            GroupSettings(
                group.terms,
                group.name,
                group.keys,
                least_updates=rule(group.aggregation).least,
                needs_rounds=rule(group.aggregation).needs_rounds,
                until=None if group.until == config.until else group.until,
                max_update_norm=group.max_update_norm,
                max_update_norm_ratio=group.max_update_norm_ratio,
            )
            for group in config.groups
        ),
        workers=config.workers,
        lease_seconds=config.lease_seconds,
        max_iteration_seconds=config.max_iteration_seconds,
        until=config.until,
        capacity=Capacity(config.max_body_bytes),
        until_seconds=config.until_seconds,
        until_metric=config.until_metric,
        until_flat=config.until_flat,
        quarantine_after=config.quarantine_after,
    )


def build(
    config: ServerConfig, stack: contextlib.AsyncExitStack, clock: Callable[[], float] = time.monotonic
) -> tuple[Runtime, Saving]:
    """All of a server but its socket and its ticker. `stack` ends it. Raises `ValueError` as `serve` does."""
    pool = Pool()
    runtime: Runtime | None = None

    def views() -> Iterable[GroupView]:
        return runtime.observer.views() if runtime else ()

    metrics = ServerMetrics(views)
    parameters = {group.name: _parameters(config, group, pool) for group in config.groups}
    make_part = partial(_parameters, config, config.groups[-1], pool)
    settings = machine_settings(config)
    saving = Saving(config)
    machine, bodies, started_at = saving.begin(stack, settings, parameters, make_part, clock)
    history = _history(config.history) if config.history else None
    runtime = Runtime(
        machine,
        parameters,
        make_part=make_part,
        pool=pool,
        guard_mode=GuardMode(config.non_finite),
        metrics=metrics,
        history=history,
        listeners=saving.listeners(),
        bodies=bodies,
        clock=clock,
        started_at=started_at,
        insecure=config.is_insecure,
    )
    if history:
        stack.callback(history.close)
        stack.callback(runtime.flush_history)
        state, _ = core.save(machine)
        facts = {"epoch": machine.epoch, "time": time.time(), "settings": plain(settings), "state": state}
        runtime.begin_history(facts)
    stack.callback(runtime.publishing.close)
    saving.attach(runtime)
    return runtime, saving


def _parameters(config: ServerConfig, group: GroupConfig, pool: Pool) -> Parameters:
    """The arithmetic of a group with these settings."""
    return Parameters(
        group.optimizer_settings(),
        pool,
        workers=config.workers,
        rule=rule(group.aggregation),
        chosen=group.optimizer_chosen,
    )


class _Server:
    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._log = structlog.get_logger("ps")

    async def run(self) -> int:
        config = self._config
        stopped = asyncio.Event()
        # Not the loop's own handlers: those are gone with it, and a signal that comes then would decide the exit code.
        loop = asyncio.get_running_loop()
        interrupts.call(lambda: loop.call_soon_threadsafe(stopped.set))
        async with contextlib.AsyncExitStack() as stack:
            try:
                runtime, saving = build(config, stack)
                if config.init is not None and not any(group.decided for group in runtime.machine.groups.values()):
                    await offer_initial(runtime, config.init)
                elif config.init is not None:
                    self._log.warning("--init gives nothing: a checkpoint goes on", init=str(config.init))
                entrance = Entrance(config)
                listening = entrance.listener(runtime, saving)
                stack.push_async_callback(listening.stop)
                address = await _listen(listening, config.host, config.port)
            except ValueError as error:
                raise SettingError(str(error)) from error
            except OSError as error:
                raise SettingError(in_words(error)) from error
            self._warn()
            entrance.warn(address)
            if config.tokens or config.tls_cert:
                interrupts.call_at_hangup(lambda: loop.call_soon_threadsafe(entrance.read_again))
            self._tell(address)
            runtime.background.start("certificate", entrance.watch())
            return await self._until_stopped(runtime, saving, stopped)

    def _tell(self, address: str) -> None:
        self._log.info("listening", address=address)
        try:
            print(address, flush=True)
        except OSError:
            # Whoever had the other end has gone. What is left in the buffer must not be tried again at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def _warn(self) -> None:
        for key, why in self._config.without_effect:
            self._log.warning("a setting has no effect", setting=key, detail=why)
        if self._config.until and all(group.until == 0 for group in self._config.named_groups or self._config.groups):
            detail = (
                "every [group.NAME] has until = 0: where all keys are in such groups, the run does not end by itself"
            )
            self._log.warning("the end is of no group with a table", until=self._config.until, detail=detail)
        for group in self._config.groups:
            if group.mode != "sync" and group.optimizer_settings().applied_momentum:
                self._log.warning(
                    "momentum on arrival",
                    group=group.name,
                    mode=group.mode,
                    optimizer=group.optimizer,
                    detail="stale updates act like momentum already; more may diverge: try sgd, or a smaller --lr",
                )

    async def _until_stopped(self, runtime: Runtime, saving: Saving, stopped: asyncio.Event) -> int:
        background = runtime.background
        background.start("ticker", _tick(runtime))
        signalled = background.start("signals", stopped.wait())
        finished = background.start("end of the run", runtime.finished.wait())
        endings: list[asyncio.Future[Any]] = [signalled, finished, runtime.failed]
        await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
        if finished.done() and not signalled.done() and not runtime.failed.done():
            await _goodbyes(runtime, signalled)
        runtime.stop()
        kept = await saving.finish()
        await background.stop()
        failure = str(runtime.failed.result()) if runtime.failed.done() else None
        self._log.info(
            "stopped",
            finished=runtime.machine.finished,
            saved=kept is Kept.SAVED,
            detail=str(kept),
            failure=failure,
        )
        return 1 if failure is not None or kept in (Kept.FAILED, Kept.UNSOUND) else 0


def _history(path: Path) -> History:
    try:
        return History(path)
    except OSError as error:
        hint = "; write to a file, and follow it with tail -f" if error.errno == errno.EINVAL else ""
        raise ValueError(f"--history {path}: {error.strerror or error}{hint}") from None


async def _listen(listening: Listener, host: str, port: int) -> str:
    """Listen, and return the address as a URL."""
    try:
        return await listening.start(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {port} at {host} is in use; choose another with --port, or 0 for a free one"
            ) from error
        raise ValueError(f"cannot listen at {host} port {port}: {error.strerror or error}; see --host") from error


async def _tick(runtime: Runtime) -> None:
    loop = asyncio.get_running_loop()
    runtime.noticed_pause()
    while True:
        # After a pause nobody is judged before what came in meanwhile has been heard: the tick comes a turn later.
        for _ in range(2):
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            with runtime.listeners.guard("metrics"):
                runtime.metrics.event_loop_lagged(max(0.0, loop.time() - due))
            if not runtime.noticed_pause():
                break
        runtime.tick()


async def _goodbyes(runtime: Runtime, signalled: asyncio.Task[Literal[True]]) -> None:
    """The run is finished: give the workers time to be told so and to leave."""
    loop = asyncio.get_running_loop()
    until = loop.time() + GOODBYE_SECONDS
    while (
        runtime.machine.membership.live() and loop.time() < until and not signalled.done() and not runtime.failed.done()
    ):
        endings: list[asyncio.Future[Any]] = [signalled, runtime.failed]
        await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED, timeout=TICK_SECONDS)
