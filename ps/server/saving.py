"""When the state is saved, and what a start goes on from.

The one rule: a checkpoint is taken between two versions: the machine's state of one moment, and of each group the
arithmetic after exactly the steps decided until then (the appliers are queues, and the checkpoint's jobs stand in them
behind those steps).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.replies import Refused
from leeway.protocol.requests import Offer
from leeway.ps.core import saved as core
from leeway.ps.core.machine import Machine
from leeway.ps.observability.decision_log import Kind
from leeway.ps.storage import checkpoints
from leeway.ps.storage.checkpoints import Checkpoint
from leeway.ps.storage.directory import StateDirectory
from leeway.ps.storage.initial import load_initial

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from leeway.protocol.frames import Frame
    from leeway.ps.arithmetic.parameters import Parameters
    from leeway.ps.config import ServerConfig
    from leeway.ps.core.machine import Settings
    from leeway.ps.server.runtime import Runtime


class Kept(StrEnum):
    """What has become of the state when the server stops, in words for its last line."""

    SAVED = "the state is saved"
    NOTHING = "there was nothing to save"
    NOWHERE = "nothing is kept: there is no --state-dir"
    FAILED = "the state could not be saved"


class Saving:
    """`begin` first, then `attach`. Without `--state-dir` nothing is saved and every start is a new epoch."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._directory: StateDirectory | None = None
        self._runtime: Runtime | None = None
        self._one_at_a_time = asyncio.Lock()
        self._periodic: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("ps")

    def begin(
        self,
        stack: contextlib.AsyncExitStack,
        settings: Settings,
        parameters: Mapping[str, Parameters],
        now: float,
    ) -> tuple[Machine, dict[int, Frame]]:
        """The machine of this life, with the bodies it holds; the parameters are restored with it.

        Raises `ValueError` for a state directory in use, an unreadable checkpoint, or one of another configuration.
        """
        now_ms = time.time_ns() // 1_000_000
        if self._config.state_dir is None:
            return Machine(settings, now_ms), {}
        directory = StateDirectory(self._config.state_dir, self._config.checkpoint_keep)
        self._directory = stack.enter_context(directory)
        path = directory.checkpoints.latest() if self._config.resume else None
        if path is None:
            if self._config.resume:
                self._log.warning("nothing to resume; this is a new run", state_dir=str(directory.path))
            return Machine(settings, directory.begin(now_ms, None)), {}
        checkpoint = checkpoints.read(path)
        bodies = dict(enumerate(checkpoint.held, start=1))
        for name, one in parameters.items():
            if name in checkpoint.groups:
                snapshot = one.restore(checkpoint.groups[name])
                if snapshot.number:
                    one.versions.publish(snapshot)
        restore = partial(core.restore, settings, dict(checkpoint.core), list(bodies), now=now)
        # Tried before the epoch is begun: a start that fails for its configuration leaves the folder as it was.
        restore(epoch=0)
        machine = restore(epoch=directory.begin(now_ms, path))
        for group in settings.groups:
            policy = machine.groups[group.name].policy_state()
            if (policy.mode, policy.staleness) != (group.mode, group.staleness):
                told = {"saved": str(policy), "configured": f"policy {group.mode}", "group": group.name}
                self._log.warning("the saved policy goes on; PUT /v1/policy switches it", **told)
        self._log.info("resumed", checkpoint=path.name, epoch=machine.epoch)
        return machine, bodies

    def attach(self, runtime: Runtime) -> None:
        self._runtime = runtime
        if self._directory is not None:
            runtime.metrics.begin_checkpoints(time.time())
        if self._config.checkpoint_every is not None:
            runtime.on_published = self._published

    async def save(self, why: str) -> dict[str, Any]:
        """Save now. Raises `WireError` where there is no state directory, or it cannot be written."""
        path = await self._save(why)
        return {"checkpoint": path.name, "bytes": path.stat().st_size, "why": why}

    async def finish(self) -> Kept:
        """The last checkpoint of a clean stop. Returns what has become of the state."""
        if self._periodic is not None:
            await asyncio.wait([self._periodic])
        assert self._runtime is not None
        if not any(group.decided for group in self._runtime.machine.groups.values()):
            return Kept.NOTHING
        if self._directory is None:
            return Kept.NOWHERE
        try:
            self._directory.finish_clean(await self._save("stop"))
        except WireError:
            return Kept.FAILED
        return Kept.SAVED

    def listing(self) -> list[dict[str, Any]]:
        """The checkpoints there are, the oldest first; `time` in seconds since 1970."""
        paths = self._directory.checkpoints.paths() if self._directory else []
        described = [(path.name, path.stat()) for path in paths]
        return [{"checkpoint": name, "bytes": stat.st_size, "time": stat.st_mtime} for name, stat in described]

    def _published(self, group: str, number: int) -> None:
        assert self._config.checkpoint_every is not None
        # One that is under way when the next is due stands for both.
        if number % self._config.checkpoint_every == 0 and (self._periodic is None or self._periodic.done()):
            self._periodic = asyncio.create_task(self._save_quietly())

    async def _save_quietly(self) -> None:
        # A failure is logged and counted; the run goes on, and the next one is tried.
        with contextlib.suppress(WireError):
            await self._save("period")

    async def _save(self, why: str) -> Path:
        if self._directory is None:
            raise WireError(Code.NO_STATE_DIR, "nothing is saved here: the server was started without --state-dir")
        assert self._runtime is not None
        runtime, loop = self._runtime, asyncio.get_running_loop()
        async with self._one_at_a_time:
            began = time.perf_counter()
            state, bodies = core.save(runtime.machine)
            held = [runtime.bodies[body] for body in bodies]
            jobs = {
                name: runtime.appliers[name].result_of(one.save, one.versions.current.layout.nbytes)
                for name, one in runtime.parameters.items()
            }
            groups = {name: await job for name, job in jobs.items()}
            number = max(group.number for group in groups.values())
            write = partial(self._directory.checkpoints.write, Checkpoint(state, groups, held), number)
            try:
                path = await loop.run_in_executor(None, write)
            except OSError as error:
                runtime.metrics.checkpoint_failed()
                self._log.error("checkpoint failed", why=why, detail=str(error))
                runtime.decisions.add(Kind.CHECKPOINT, f"failed: {error.strerror}", reason=why)
                raise WireError(Code.INTERNAL, f"the checkpoint could not be written: {error.strerror}") from error
            seconds = time.perf_counter() - began
        runtime.metrics.checkpoint_saved(seconds, path.stat().st_size, time.time())
        self._log.info("checkpoint", why=why, file=path.name, seconds=round(seconds, 3))
        runtime.decisions.add(Kind.CHECKPOINT, f"{path.name} in {seconds:.3f} s", reason=why)
        return path


async def offer_initial(runtime: Runtime, path: Path) -> None:
    """Offer the values of `--init`; keys that are known already are kept. Raises `ValueError`."""
    frame = load_initial(path)
    reply = (await runtime.ask(Offer(frame.specs), frame)).reply
    if isinstance(reply, Refused):
        raise ValueError(f"--init {path}: {reply.error.detail}")
