"""`ps-worker`: trains a task as one worker, from joining to leaving.

The one rule: an iteration is a pure function of (seed, rank's place, iteration) and of the pulled parameters; so a
replayed iteration reads the same data, and `sync` runs are the same from run to run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
import torch

from leeway import interrupts
from leeway.errors import ServerLost, SettingError, WireError
from leeway.transport.credentials.credentials import Credentials
from leeway.worker.connecting import begin
from leeway.worker.train.evaluation import Evaluation
from leeway.worker.train.preparing import prepare
from leeway.worker.train.progress import progress
from leeway.worker.train.stage_trainer import StageTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from leeway.worker.train.config import WorkerConfig
    from leeway.worker.training import TrainingSession

log = structlog.get_logger("worker")


def run(config: WorkerConfig) -> int:
    """Train until the clock `config.steps` or the end of the run. Returns the exit code.

    Raises `SettingError`, `TaskError` and `DataError` for what the user can mend.
    """
    device = choose_device(config.device)
    # Before the data are loaded: files that are not as they should be.
    shown = Credentials.chosen({}, config.token_file, config.ca, config.cert, config.key)
    trainer = _Trainer(config, device) if config.stages is None else StageTrainer(config, device)
    # What begins here is ended in good order.
    interrupts.raise_exceptions()
    try:
        with _connect(config, trainer.name, shown) as session:
            trainer.train(session)
    except (ServerLost, WireError) as error:
        log.error("training has to stop", detail=str(error))
        return 1
    log.info("done", clock=session.clock, ending=str(session.ending or "reached --steps"))
    trainer.left(session)
    return 0


def _connect(config: WorkerConfig, task: str, shown: Credentials) -> TrainingSession:
    session = begin(
        config.server,
        config.rank,
        task,
        start_together=config.start_together,
        metrics_port=config.metrics_port,
        metrics_host=None if config.metrics_port is None else config.metrics_host,
        metrics_insecure=config.metrics_insecure,
        credentials=shown,
    )
    if session.metrics_url:
        print(session.metrics_url, flush=True)
    return session


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU if there is one. Raises `SettingError` for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not torch.cuda.is_available():
        raise SettingError(f"--device is {name!r}, but this machine has no GPU that torch can use; choose cpu or auto")
    return torch.device(name)


class _Trainer:
    """Trains the whole model. Raises `TaskError` and `DataError`."""

    def __init__(self, config: WorkerConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._task, self._partition = prepare(config)
        self.name = self._task.name

    def train(self, session: TrainingSession) -> None:
        config = self._config
        self._session = session
        self._model = self._task.model(config.seed).to(self._device)
        self._model.train()
        self._evaluation = Evaluation(self._task, self._model, self._device, config.evaluate_every)
        with progress(config.rank, config.steps or session.until) as self._shown:
            session.attach(self._model)
            while not session.finished and (config.steps is None or session.clock < config.steps):
                self._iterate()

    def left(self, session: TrainingSession) -> None:
        """Evaluate: once is enough for all, and after leaving, so that nobody waits for it."""
        if session.index == 0:
            self._evaluation.run()
            self._evaluation.log(session.version)

    def _iterate(self) -> None:
        session, config = self._session, self._config
        clock = session.clock
        # Where files are dealt out, this reads them, and what they hold out with them.
        indices = self._indices(clock)
        if self._evaluation.due(clock):
            self._evaluate_in_between()
        samples = sum(len(batch) for batch in indices)
        nap = config.sleep_seconds(clock, session.index, session.count)
        if not samples:
            time.sleep(nap)
            session.skip()
            return
        local = config.local_steps > 1
        loss = self._local_steps(indices) if local else self._gradient(indices, samples)
        time.sleep(nap)
        figures = {"loss": loss, **self._evaluation.reported()}
        outcome = session.step(samples=samples, metrics=figures, update="delta" if local else "gradient")
        if outcome.dropped:
            log.warning("update dropped", clock=outcome.clock, reason=str(outcome.reason))
        self._shown.stepped(session.clock, loss, session.lag)

    def _evaluate_in_between(self) -> None:
        # By the first of those that are live, whoever that is by now. The others wait for it as for a slow iteration.
        if self._session.index == 0:
            self._evaluation.run()
        else:
            self._evaluation.forget()

    def _indices(self, clock: int) -> list[NDArray[np.int64]]:
        """The batches of this iteration: one, or as many as are accumulated or stepped through locally."""
        config, session = self._config, self._session
        batches = config.local_steps * config.accumulate
        numbers = range(clock * batches, (clock + 1) * batches)
        each = (self._partition.batch(number, session.index, session.count) for number in numbers)
        return [batch for batch in each if len(batch)]

    def _gradient(self, batches: list[NDArray[np.int64]], samples: int) -> float:
        """Accumulate the gradient of the mean loss over all samples. Returns that loss."""
        total = 0.0
        for loss, share in self._losses(batches, samples):
            (loss * share if share != 1.0 else loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item() * share
        return total

    def _local_steps(self, batches: list[NDArray[np.int64]]) -> float:
        """Plain SGD steps on the model itself (Local SGD, Stich 2019). Returns the mean of their losses."""
        optimizer = torch.optim.SGD(self._model.parameters(), lr=self._config.local_lr)
        total = 0.0
        for loss, _ in self._losses(batches, 1):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() / len(batches)
        return total

    def _losses(self, batches: list[NDArray[np.int64]], samples: int) -> Iterator[tuple[torch.Tensor, float]]:
        """The loss of each batch, and its share of the samples."""
        for indices in batches:
            inputs, targets = self._task.batch(indices, self._device)
            yield self._task.loss(self._model, inputs, targets), len(indices) / samples
