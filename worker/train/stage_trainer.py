"""`ps-worker --stages`: trains one stage of a task's model, from joining to leaving.

The one rule: what is done next, and with which samples, is decided from what all stages of a replica know alike: the
seed, `committed`, `index`, `count`, `clock`. So they make the same calls in the same order, whichever of them is new.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from leeway.errors import LeewayError, TaskError
from leeway.worker.pipeline.micro_batches import joined
from leeway.worker.train.evaluation import Figures
from leeway.worker.train.preparing import prepare
from leeway.worker.train.progress import progress
from leeway.worker.train.tasks.mean import Mean
from leeway.worker.train.tasks.task import of_stages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from leeway.worker.pipeline.pipeline import Pipeline
    from leeway.worker.train.config import WorkerConfig
    from leeway.worker.train.tasks.task import StagedTask
    from leeway.worker.training import TrainingSession

log = structlog.get_logger("worker")


class StageTrainer:
    """Trains stage `config.stage` of `config.stages`. Raises `TaskError` and `DataError`."""

    def __init__(self, config: WorkerConfig, device: torch.device) -> None:
        assert config.stages is not None
        assert config.stage is not None, "a valid configuration says which"
        self._config, self._device = config, device
        self._stages, self._stage = config.stages, config.stage
        task, self._partition = prepare(config)
        self._task: StagedTask | None = of_stages(config.task, task)
        self.name = task.name
        self._held_out_samples = self._task.held_out_samples()
        self._figures = Figures(config.evaluate_every)

    def train(self, session: TrainingSession) -> None:
        config = self._config
        self._pipeline = pipeline = self._begin(session)
        if not (self._is_first or self._is_last):
            # Neither inputs nor targets are wanted here: the samples can go.
            self._task = None
        if self._is_last and not self._held_out_samples:
            log.warning("not evaluated", detail="the task holds no samples out")
        # The last one knows the loss.
        showing = progress(config.rank, config.steps or pipeline.until) if self._is_last else nullcontext()
        with showing as self._shown:
            while not pipeline.finished and (config.steps is None or pipeline.clock < config.steps):
                self._iterate()
        # Before leaving, because it takes all stages. Without a version the run was over before this one had begun.
        if pipeline.index == 0 and pipeline.version and self._evaluate():
            self._figures.log(pipeline.version)
        pipeline.end()

    def left(self, session: TrainingSession) -> None:
        """Nothing is left to do."""

    @property
    def _is_first(self) -> bool:
        return self._stage == 0

    @property
    def _is_last(self) -> bool:
        return self._stage == self._stages - 1

    def _begin(self, session: TrainingSession) -> Pipeline:
        config, task = self._config, self._task
        assert task is not None, "it has not begun"
        first = np.arange(min(config.batch_size, task.train_samples()))
        example, _ = task.batch(first, torch.device("cpu"))
        with torch.device("meta"):
            model = task.model(config.seed)
        try:
            return session.pipeline(
                model,
                self._stages,
                self._stage,
                config.micro_batches,
                loss=task.criterion if self._is_last else None,
                cut=config.cut,
                example=example,
                schedule=config.schedule,
                seed=config.seed,
                recompute=config.recompute,
                wire_dtype=config.wire_dtype,
                device=self._device,
                host=config.stage_host,
                port=config.stage_port,
                advertise=config.advertise,
            )
        except LeewayError:
            raise
        except ValueError as error:
            raise TaskError(f"task {self.name}, --stages {self._stages}: {error}") from error

    def _iterate(self) -> None:
        pipeline, config = self._pipeline, self._config
        index, count = pipeline.index, pipeline.count
        indices = self._partition.batch(pipeline.committed, index, count)
        if not self._figures_are_there():
            return
        time.sleep(config.sleep_seconds(pipeline.clock, index, count))
        if not len(indices):
            pipeline.skip()
            return
        inputs, targets = self._read(indices)
        outcome = pipeline.step(inputs, targets, self._figures.reported(), micro_batches=self._pieces(indices))
        if outcome.dropped:
            log.warning("update dropped", clock=outcome.clock, reason=str(outcome.reason))
        elif self._shown is not None and pipeline.loss is not None:
            self._shown.stepped(pipeline.clock, pipeline.loss, pipeline.lag)

    def _read(
        self, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Inputs on the first stage, and targets on the last."""
        task = self._task
        if task is None:
            return None, None
        inputs, targets = (task.held_out if held_out else task.batch)(indices, self._device)
        return inputs if self._is_first else None, targets if self._is_last else None

    def _pieces(self, indices: NDArray[np.int64]) -> int:
        """The last batch of an epoch may be shorter than its micro-batches are many."""
        return min(self._config.micro_batches, len(indices))

    def _figures_are_there(self) -> bool:
        """Evaluate where that is due. Whether the iteration can go on; False: a stage was lost, and all is to be
        decided anew."""
        if not self._figures.due(self._pipeline.committed):
            return True
        # By the first of the live replicas, whichever that is by now.
        if self._pipeline.index == 0:
            return self._evaluate()
        self._figures.forget()
        return True

    def _evaluate(self) -> bool:
        """Evaluate the parameters that the stages hold. Whether that came to its end; the last one has the figures."""
        mean = Mean()
        samples = self._held_out_samples
        # In each micro-batch at most as many samples as in a whole batch of training: nothing of them is kept.
        at_once = self._config.batch_size * self._config.micro_batches
        for indices in np.array_split(np.arange(samples), math.ceil(samples / at_once)) if samples else ():
            inputs, targets = self._read(indices, held_out=True)
            done = self._pipeline.evaluate(inputs, micro_batches=self._pieces(indices))
            if done is None:
                return False
            if self._task is not None and targets is not None:
                with torch.inference_mode():
                    mean.add(self._task.figures(joined(done.outputs), targets), len(indices))
        self._figures.newest = mean.figures
        return True
