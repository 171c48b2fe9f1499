"""What the callbacks do with a session while a framework's loop runs.

The one rule: a session ends with the loop that it was given for, so that no other worker waits for this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler

from leeway.protocol.fields import shown
from leeway.worker.training import TrainingSession
from leeway.worker.warn import warn

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

# They give every worker all samples; a `DistributedSampler` does so where the framework runs one process.
_WHOLE = (RandomSampler, SequentialSampler, DistributedSampler)


class Fitting:
    """One session, and the options with which each optimizer of the loop is wrapped."""

    def __init__(self, session: TrainingSession, **options: Any) -> None:
        self.session = session
        self._options = options
        self._looked = False

    def begin(self, model: torch.nn.Module, optimizers: Iterable[Any], processes: int) -> None:
        """Attach the model, unless one is, and wrap the optimizers. `processes`: that the framework trains with.

        Raises `ValueError` for a loop that no worker can be made of, and what `TrainingSession.wrap` raises.
        """
        optimizers = list(optimizers)
        if processes > 1:
            raise ValueError(
                f"the trainer shares its model among {processes} processes of its own; a worker of Leeway is one: start"
                " the script once for each worker, without torchrun or accelerate launch, and with one device"
            )
        # Where a module names none, Lightning has one of its own that moves nothing.
        if not any(parameter.requires_grad for optimizer in optimizers for parameter in _parameters(optimizer)):
            raise ValueError("there is no optimizer to wrap: a worker pushes what an optimizer's steps have done")
        if len(optimizers) > 1 and self._options["server_optimizer"]:
            raise ValueError(
                f"server_optimizer=True is for one optimizer, and there are {len(optimizers)}: each would push the"
                " gradients that are left for the others"
            )
        for optimizer in optimizers:
            self.session.wrap(optimizer, model, **self._options)

    def stepped(self, loaders: Iterable[Any]) -> bool:
        """Look at what a step has led to. Returns whether the run is over."""
        if not self._looked and self.session.count > 1:
            self._looked = True
            for kind in sorted({type(sampler).__name__ for loader in loaders if (sampler := _whole(loader))}):
                warn(
                    f"this is one of {self.session.count} workers, and each reads all the data: a {kind} does not share"
                    " them out. Give the DataLoader sampler=leeway.Sampler(data, session), unless its data set is this"
                    " worker's share already"
                )
        return self.session.finished


class Fitted:
    """What a callback is made with: a session, and the options of `session.wrap`, with their defaults.

    Raises `ValueError` for what is no session.
    """

    def __init__(
        self,
        session: TrainingSession,
        *,
        every: int = 1,
        samples: int | None = None,
        server_optimizer: bool = False,
        lr: Literal["script"] | None = None,
    ) -> None:
        if not isinstance(session, TrainingSession):
            raise ValueError(
                f"session is {shown(session)}, it must be what leeway.connect returned:"
                " LeewayCallback(leeway.connect())"
            )
        self.session = session
        self._fitting = Fitting(session, every=every, samples=samples, server_optimizer=server_optimizer, lr=lr)


def _parameters(optimizer: Any) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _whole(loader: Any) -> Any:
    """The loader's sampler, if each worker reads all samples through it."""
    # A loader of Accelerate's has a sampler that it does not use, beside the one that makes its batches.
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", None) or getattr(loader, "sampler", None)
    return sampler if isinstance(sampler, _WHOLE) else None
