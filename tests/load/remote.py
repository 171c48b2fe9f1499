"""A server that runs already, perhaps on another machine: switched from run to run, and left as it was found.

The one rule: each run begins with the parameters of its seed. There is no request that sets parameters; a worker alone
can have them, by pushing what separates the present ones from those, as the gradient of one step of plain SGD with rate
1. So nothing but plain SGD will do, and nobody else may train there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import leeway
from leeway.worker.starting import START_BARRIER
from leeway.worker.train.tasks.task import resolve
from tests.load.reader import Reader, Refused

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tests.load.scenario import Scenario
    from tests.load.trials import Trial

# What would change the step that sets the parameters, or the steps of a run from one run to the next.
_PLAIN = {"lr_schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "clip_norm": None}


class RemoteError(ValueError):
    """This server cannot be used. The message says why, and what would do."""


class Remote:
    """Raises `RemoteError` when the server cannot be reached, or used, for these scenarios."""

    def __init__(self, url: str, scenarios: list[Scenario], data_dir: Path) -> None:
        self.url = url
        self._data_dir = data_dir
        try:
            self._reader = Reader(url)
        except ValueError as error:
            raise RemoteError(str(error)) from None
        self._runs = 0
        try:
            status, self._optimizer = self._reader.status(), self._reader.optimizer()
            self._check(status, scenarios)
        except (OSError, ValueError) as error:
            self._reader.close()
            raise RemoteError(f"--server {url}: {error}") from error
        self._policy = {
            key: value
            for key, value in status["groups"]["default"]["policy"].items()
            if key in ("mode", "staleness") and value is not None
        }

    def _check(self, status: dict[str, Any], scenarios: list[Scenario]) -> None:
        live = [one["rank"] for one in status["workers"]]
        models = {(one.task, one.model) for one in scenarios}
        kind = self._optimizer["kind"]
        for wrong, words in (
            (live, f"{', '.join(live)} train there; load tests need a server of their own"),
            (status["until"] is not None, "it ends at a clock; start it without --until"),
            (kind != "sgd", f"its optimizer is {kind}, which cannot be switched; start it with --optimizer sgd"),
            (len(models) > 1, "a server holds one model; give one --scenario, or several of the same task"),
            (len(status["groups"]) > 1, "it has several groups; start it without [group.NAME]"),
        ):
            if wrong:
                raise ValueError(words)

    @property
    def prefix(self) -> str:
        """Of the ranks of the run that was prepared last: a rank of an earlier run would bring its clock along."""
        return f"load-{self._reader.status()['epoch'] % 10_000}-{self._runs}-"

    def prepare(self, trial: Trial) -> str:
        """Set policy, learning rate and parameters for a run. Returns the URL. Raises `Refused` and `OSError`."""
        self._runs += 1
        self._reader.put("/v1/policy", {"mode": "async"})
        self._reader.put("/v1/optimizer", {"lr": 1.0, **_PLAIN})
        if self._runs == 1:
            self._begin(trial.scenario.workers)
        self._set_parameters(resolve(trial.scenario.task)(self._data_dir, trial.scenario.model).model(trial.seed))
        self._reader.put("/v1/policy", trial.system.policy)
        self._reader.put("/v1/optimizer", {"lr": trial.learning_rate})
        return self.url

    def _begin(self, workers: int) -> None:
        """Nobody computes before --workers different ranks have joined once; who sets the parameters is one."""
        try:
            for number in range(workers):
                with leeway.connect(self.url, f"{self.prefix}begins{number}") as session:
                    session.join()
        except ValueError as error:
            raise Refused(f"nobody can join: {error}") from error

    def _set_parameters(self, model: torch.nn.Module) -> None:
        wanted = {name: value.detach().clone() for name, value in model.named_parameters()}
        try:
            with leeway.connect(self.url, f"{self.prefix}resets") as session:
                session.attach(model)
                for name, parameter in model.named_parameters():
                    parameter.grad = parameter.detach() - wanted[name]
                session.step(samples=1)
                # The barrier of --start-together is the server's, and passed once and for all: in later runs nobody
                # would wait at it, so nobody does in the first.
                session.barrier(START_BARRIER)
        except ValueError as error:
            raise Refused(f"the parameters cannot be set: {error}") from error

    def close(self) -> None:
        """Give the server its own policy and settings back; its parameters are those of the last run."""
        kept = {name: self._optimizer[name] for name in ("lr", *_PLAIN)}
        try:
            self._reader.put("/v1/policy", self._policy)
            self._reader.put("/v1/optimizer", kept)
        except (OSError, Refused):
            pass  # It is gone, and the report says so already.
        finally:
            self._reader.close()
