"""What a worker trains, and who reads which of its samples when: made from its settings, before there is a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.worker.train.data.partition import RandomSampling, ShuffleAndSplit
from leeway.worker.train.data.shares import FileShares, find
from leeway.worker.train.tasks.task import resolve, resolve_of_files

if TYPE_CHECKING:
    from leeway.worker.train.config import WorkerConfig
    from leeway.worker.train.data.partition import Partition
    from leeway.worker.train.tasks.task import Task


def prepare(config: WorkerConfig) -> tuple[Task, Partition]:
    """Raises `TaskError` and `DataError`."""
    size, seed = config.batch_size, config.seed
    if config.files is not None:
        create = resolve_of_files(config.task)
        files = find(config.files, config.data_dir, config.start_together)
        of_files = create(config.data_dir, config.model)
        return of_files, FileShares(files, of_files.read_files, size, seed)
    task = resolve(config.task)(config.data_dir, config.model)
    if config.partition == "random":
        return task, RandomSampling(task.train_samples(), size, seed, config.rank, config.weight)
    return task, ShuffleAndSplit(task.train_samples(), size, seed)
