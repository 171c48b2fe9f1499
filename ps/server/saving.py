"""When the state is saved, and what a start goes on from.

The one rule: a checkpoint is taken between two versions: the machine's state of one moment, and of each group the
arithmetic after exactly the steps decided until then (the appliers are queues, and the checkpoint's jobs stand in them
behind those steps). Where one of those steps fails, the state that was taken before is untrue, and it is taken again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from leeway.errors import CheckpointError, WireError
from leeway.protocol.codes import Code
from leeway.protocol.offers import Offer
from leeway.protocol.refusals import Refused
from leeway.protocol.tensors import TensorSpec
from leeway.ps.core import saved as core
from leeway.ps.core.consistency import check
from leeway.ps.core.events import Failed, Published
from leeway.ps.core.machine import Machine
from leeway.ps.storage import checkpoints
from leeway.ps.storage.checkpoints import Checkpoint
from leeway.ps.storage.directory import StateDirectory
from leeway.ps.storage.files import in_words
from leeway.ps.storage.initial import load_initial
from leeway.ps.watching.decision_log import Kind
from leeway.ps.watching.listeners import Named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from leeway.protocol.frames import Frame
    from leeway.ps.arithmetic.parameters import Parameters
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.core.settings import Settings
    from leeway.ps.server.runtime import Runtime
    from leeway.ps.settings.config import ServerConfig


class Kept(StrEnum):
    """What has become of the state when the server stops, in words for its last line."""

    SAVED = "the state is saved"
    NOTHING = "there was nothing to save"
    NOWHERE = "nothing is kept: there is no --state-dir"
    FAILED = "the state could not be saved"
    UNSOUND = "nothing is written: the state is no longer what was acknowledged"


# A step that fails while the state is taken makes it untrue. So often it is taken again; then steps fail all the time.
_ATTEMPTS = 3


class Saving:
    """`begin` first, then `attach`. Without `--state-dir` nothing is saved and every start is a new epoch."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._directory: StateDirectory | None = None
        self._runtime: Runtime | None = None
        self._one_at_a_time = asyncio.Lock()
        # What the newest checkpoint holds, and where it is.
        self._newest: tuple[str, Path] | None = None
        self._periodic: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("ps")

    def begin(
        self,
        stack: contextlib.AsyncExitStack,
        settings: Settings,
        parameters: dict[str, Parameters],
        make_part: Callable[[], Parameters],
        clock: Callable[[], float],
    ) -> tuple[Machine, dict[int, Frame], float]:
        """The machine of this life, with the bodies it holds, and the moment from which its leases and graces count:
        when everything has been read, which may take longer than they do. The parameters are restored with it; those of
        parts that workers had made are made anew.

        Raises `ValueError` for a state directory in use, an unreadable checkpoint, or one of another configuration.
        """
        now_ms = time.time_ns() // 1_000_000
        if self._config.state_dir is None:
            now = clock()
            return Machine(settings, now_ms, now), {}, now
        directory = StateDirectory(self._config.state_dir, self._config.checkpoint_keep)
        self._directory = stack.enter_context(directory)
        latest = directory.checkpoints.latest()
        path = latest if self._config.resume else None
        if path is None:
            if self._config.resume:
                self._log.warning("nothing to resume; this is a new run", state_dir=str(directory.path))
            elif latest is not None:
                detail = f"{latest.name} is left, --resume would go on from it; --checkpoint-keep counts it too"
                self._log.warning("this is a new run in the state directory of another", detail=detail)
            epoch, now = directory.begin(now_ms, None), clock()
            return Machine(settings, epoch, now), {}, now
        checkpoint = _read(directory, path)
        bodies = dict(enumerate(checkpoint.held, start=1))
        restore = partial(core.restore, settings, dict(checkpoint.core), list(bodies))
        # Tried before the epoch is begun: a start that fails for its configuration leaves the folder as it was.
        for name in restore(epoch=0, now=0.0).parts:
            parameters[name] = make_part()
        for name, group_parameters in parameters.items():
            if name in checkpoint.groups:
                try:
                    snapshot = group_parameters.restore(checkpoint.groups[name])
                except ValueError as error:
                    raise ValueError(f"group {name}: {error}") from None
                if snapshot.number:
                    group_parameters.versions.publish(snapshot)
        saved_epoch = checkpoint.core["epoch"]
        epoch, now = directory.begin(now_ms, path, saved_epoch), clock()
        machine = restore(epoch=epoch, now=now)
        if not checkpoint.verified:
            detail = "it is of an older version and has no digest, so damage to its values would not be seen"
            self._log.warning("checkpoint not verified", checkpoint=path.name, detail=detail)
        if machine.epoch != saved_epoch:
            held = ", ".join(f"{name} {group.published}" for name, group in machine.groups.items())
            gone = ", ".join(f"{name} {group.published + 1}" for name, group in machine.groups.items())
            detail = (
                f"the last server did not stop cleanly with exactly this checkpoint, which has the versions up "
                f"to {held}; those from {gone} on may be gone, with updates that were acknowledged in them; epoch "
                f"{machine.epoch} begins in place of {saved_epoch}, workers join again by themselves"
            )
            self._log.warning("a new epoch", checkpoint=path.name, epoch=machine.epoch, detail=detail)
        for group in settings.groups:
            policy = machine.groups[group.name].policy_state()
            if policy.terms != group.terms:
                facts = {"saved": str(policy), "configured": str(group.terms), "group": group.name}
                self._log.warning("the saved policy goes on; PUT /v1/policy switches it", **facts)
        self._log.info("resumed", checkpoint=path.name, epoch=machine.epoch)
        if machine.epoch == saved_epoch:
            self._newest = _identity(core.save(machine)[0], parameters), path
        return machine, bodies, now

    def attach(self, runtime: Runtime) -> None:
        self._runtime = runtime
        if self._directory is not None:
            runtime.metrics.begin_checkpoints(time.time())

    def listeners(self) -> list[Named]:
        """What is to be told of each event, for the runtime that is then attached."""
        return [Named("saving", self._took)] if self._config.checkpoint_every is not None else []

    async def save(self, why: str) -> dict[str, Any]:
        """Save now. Raises `WireError` where there is no state directory, or it cannot be written."""
        path, size_bytes = await self._save(why)
        return {"checkpoint": path.name, "bytes": size_bytes, "why": why}

    async def finish(self) -> Kept:
        """The last checkpoint of a stop in order. Returns what has become of the state."""
        if self._periodic is not None:
            await asyncio.wait([self._periodic])
        assert self._runtime is not None
        if self._runtime.broken.done():
            return Kept.UNSOUND
        if not any(group.decided for group in self._runtime.machine.groups.values()):
            return Kept.NOTHING
        if self._directory is None:
            return Kept.NOWHERE
        try:
            path = self._unchanged() or (await self._save("stop"))[0]
            self._directory.finish_clean(path)
        except WireError:
            return Kept.FAILED
        except OSError as error:
            # The state is there; the next start begins a new epoch all the same.
            self._log.error("the stop could not be marked as clean", detail=in_words(error))
            return Kept.FAILED
        return Kept.SAVED

    def _unchanged(self) -> Path | None:
        """The newest checkpoint, where it holds the state as it is: one more would only push an older one out."""
        assert self._runtime is not None
        if self._newest is None:
            return None
        identity, path = self._newest
        same = identity == _identity(core.save(self._runtime.machine)[0], self._runtime.parameters)
        return path if same and path.exists() else None

    def listing(self) -> list[dict[str, Any]]:
        """The checkpoints there are, the oldest first; `time` in seconds since 1970. Raises `WireError`."""
        try:
            paths = self._directory.checkpoints.paths() if self._directory else []
            described = [(path.name, path.stat()) for path in paths]
        except OSError as error:
            self._log.error("the checkpoints could not be listed", detail=in_words(error))
            detail = f"the state directory cannot be read: {error.strerror}; see to it on the server's machine"
            raise WireError(Code.STORAGE_FAILED, detail) from None
        return [{"checkpoint": name, "bytes": stat.st_size, "time": stat.st_mtime} for name, stat in described]

    def _took(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        """A version is out: every so many of them a checkpoint is due."""
        every = self._config.checkpoint_every
        assert every is not None
        if not isinstance(event, (Published, Failed)) or event.number % every:
            return
        # One that is under way when the next is due stands for both.
        if self._periodic is None or self._periodic.done():
            assert self._runtime is not None
            self._periodic = self._runtime.background.start("periodic checkpoint", self._save_quietly())

    async def _save_quietly(self) -> None:
        # A failure is logged and counted; the run goes on, and the next one is tried.
        with contextlib.suppress(WireError):
            await self._save("period")

    async def _save(self, why: str) -> tuple[Path, int]:
        """Returns the file, and its size in bytes. Raises `WireError`, whatever it is that fails."""
        if self._directory is None:
            raise WireError(Code.NO_STATE_DIR, "nothing is saved here: the server was started without --state-dir")
        assert self._runtime is not None
        runtime = self._runtime
        async with self._one_at_a_time:
            began = time.perf_counter()
            try:
                path = await self._write(runtime, self._directory)
                size_bytes = path.stat().st_size
            except WireError:
                raise
            except Exception as error:
                raise self._failed(runtime, why, error) from error
            seconds = time.perf_counter() - began
        with runtime.listeners.guard("saving"):
            runtime.metrics.checkpoint_saved(seconds, size_bytes, time.time())
            self._log.info("checkpoint", why=why, file=path.name, seconds=round(seconds, 3))
            runtime.decisions.add(Kind.CHECKPOINT, f"{path.name} in {seconds:.3f} s", reason=why)
        return path, size_bytes

    async def _write(self, runtime: Runtime, directory: StateDirectory) -> Path:
        for _ in range(_ATTEMPTS):
            failed_steps = runtime.publishing.failed_steps
            state, bodies = core.save(runtime.machine)
            identity = _identity(state, runtime.parameters)
            held = [runtime.bodies[body] for body in bodies]
            jobs = [
                runtime.publishing.appliers[name].result_of(group.save, group.versions.current.layout.nbytes)
                for name, group in runtime.parameters.items()
            ]
            saved = asyncio.gather(*jobs)
            endings: list[asyncio.Future[Any]] = [saved, runtime.broken]
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            if runtime.broken.done():
                saved.cancel()
                raise WireError(Code.STOPPING, "the server stops after a fault of its own, nothing can be saved")
            groups = dict(zip(runtime.parameters, saved.result(), strict=True))
            if runtime.publishing.failed_steps == failed_steps:
                break
        else:
            raise RuntimeError("steps went on failing while the state was taken; mend that first, then save again")
        number = max(group.number for group in groups.values())
        write = partial(directory.checkpoints.write, Checkpoint(state, groups, held), number)
        path = await asyncio.get_running_loop().run_in_executor(None, write)
        self._newest = identity, path
        return path

    def _failed(self, runtime: Runtime, why: str, error: Exception) -> WireError:
        """Count and say it; returns what the asker is told."""
        storage = isinstance(error, OSError)
        words = in_words(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        with runtime.listeners.guard("saving"):
            runtime.metrics.checkpoint_failed()
            self._log.error("checkpoint failed", why=why, detail=words, exc_info=None if storage else error)
            runtime.decisions.add(Kind.CHECKPOINT, f"failed: {words}", reason=why)
        code = Code.STORAGE_FAILED if storage else Code.INTERNAL
        return WireError(code, f"the checkpoint could not be written: {words}; the older ones are still there")


def _identity(state: Mapping[str, Any], parameters: Mapping[str, Parameters]) -> str:
    """The same for the same state: its versions name the values, its lives and clocks the contributions it holds."""
    settings = {name: group.settings.to_fields() for name, group in parameters.items()}
    return json.dumps([state, settings], sort_keys=True)


def _read(directory: StateDirectory, path: Path) -> Checkpoint:
    """Read and check a checkpoint. Raises `CheckpointError`, which names the newest sound one there is besides."""
    try:
        return checked(path)
    except CheckpointError as error:
        for other in reversed(directory.checkpoints.paths()):
            if other != path:
                with contextlib.suppress(CheckpointError):
                    checked(other)
                    advice = f"move it away and start again, to go on from {other.name}, the newest sound one"
                    break
        else:
            advice = "there is no other sound one; without --resume a new run begins"
        raise CheckpointError(f"{error}; {advice}") from None


def checked(path: Path) -> Checkpoint:
    """A checkpoint whose parts agree with each other."""
    checkpoint = checkpoints.read(path)
    try:
        check(checkpoint.core, len(checkpoint.held))
        for name, group in checkpoint.core["groups"].items():
            saved = checkpoint.groups[name]
            specs = {spec.name: spec for spec in map(TensorSpec.read, group["specs"])}
            if group["version"] != saved.number:
                raise ValueError(f"group {name!r} is at version {group['version']}, its values are of {saved.number}")
            if specs != {key: place.spec for key, place in saved.layout.places.items()}:
                raise ValueError(f"the keys of group {name!r} are not those of its values")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"unreadable checkpoint {path}: it is damaged, {error}") from None
    return checkpoint


async def offer_initial(runtime: Runtime, path: Path) -> None:
    """Offer the values of `--init`; keys that are known already are kept. Raises `ValueError`."""
    frame = load_initial(path)
    reply = (await runtime.ask(Offer(frame.specs, from_file=True), frame)).reply
    if isinstance(reply, Refused):
        raise ValueError(f"--init {path}: {reply.error.detail}")
