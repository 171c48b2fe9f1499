"""A callback for the `Trainer` of Hugging Face's transformers.

The one rule: the Trainer's loop stays as it is, with its clipping, accumulation and schedule; what is pushed is what
each step of its optimizer has done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from leeway.worker.callbacks.fitting import Fitted
from leeway.worker.wrapping import untraced

if TYPE_CHECKING:
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments


class LeewayCallback(Fitted, TrainerCallback):
    """Makes `Trainer.train` a worker's training, in `session`; the other arguments are those of `session.wrap`.

    Each optimizer step is an iteration. The end of the run stops the Trainer; the end of the training closes the
    session. A Trainer tells its callbacks of no exception: keep the session in a `with` block. Raises what
    `session.wrap` raises, and `ValueError` for a Trainer with several processes.
    """

    _counting: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any
    ) -> TrainerControl:
        """Begin: the optimizer is made, and what a checkpoint has is in it and in the model."""
        try:
            self._fitting.begin(told["model"], [told["optimizer"]], args.world_size)
        except BaseException:
            self.session.close()
            raise
        if self._counting:  # a training that is begun anew, with smaller batches
            self._counting.remove()
        self._counting = told["model"].register_forward_pre_hook(untraced(self._count), with_kwargs=True)
        return self._look(control, told)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any
    ) -> TrainerControl:
        """Look whether the run is over."""
        return self._look(control, told)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        """Leave."""
        self._counting.remove()
        self.session.close()

    def _look(self, control: TrainerControl, told: dict[str, Any]) -> TrainerControl:
        if self._fitting.stepped([told["train_dataloader"]]):
            control.should_training_stop = True
        return control

    def _count(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the samples of a batch where the model is given it: the Trainer shows none to its callbacks."""
        if model.training:
            self.session.samples.read([*args, kwargs])
