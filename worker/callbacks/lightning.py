"""A callback for Lightning's `Trainer`.

The one rule: Lightning's loop stays as it is. Clipping, accumulation, schedules and the scaler act where they did,
within or around the optimizer's step, and what is pushed is what the step has done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import CombinedLoader

from leeway.worker.callbacks.fitting import Fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer


class LeewayCallback(Fitted, Callback):
    """Makes `Trainer.fit` a worker's training, in `session`; the other arguments are those of `session.wrap`.

    Each step of each optimizer is an iteration. The end of the run stops the trainer, as early stopping does; the end
    of the fit, or an exception in it, closes the session. Raises what `session.wrap` raises, and `ValueError` for a
    trainer with several processes or, with `server_optimizer`, several optimizers.
    """

    _loaders: Sequence[Any] = ()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin: the module is where it is trained, a checkpoint's values are in it, no data have been read."""
        self._fitting.begin(pl_module, trainer.optimizers, trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know the loaders; begin no loop for a run that is over."""
        given = trainer.train_dataloader
        self._loaders = (given if isinstance(given, CombinedLoader) else CombinedLoader(given)).flattened
        self._look(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count its samples."""
        self.session.samples.read(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look whether the run is over."""
        self._look(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave, at the end of a fit."""
        if stage == "fit":
            self.session.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave."""
        self.session.close()

    def _look(self, trainer: Trainer) -> None:
        if self._fitting.stepped(self._loaders):
            trainer.should_stop = True
