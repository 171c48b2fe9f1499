"""All runs, one after another: the search for learning rates, then every system under every straggler with every seed.

The one rule: systems take turns, so that a slow minute of the machine hits all of them. Whatever happens, what has been
measured until then is kept.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from tests.load import ddp, leeway, tunnel
from tests.load.search import MOST_BEYOND, Attempt, Choice, choose, families, pooled
from tests.load.stragglers import Nobody
from tests.load.trials import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.load.evaluation import Evaluator
    from tests.load.remote import Remote
    from tests.load.report import Findings
    from tests.load.scenario import Scenario
    from tests.load.stragglers import Straggler
    from tests.load.systems import System
    from tests.load.trials import Result

# Starting and ending a run's processes.
OVERHEAD_SECONDS = 1.0

# A single failure may be bad luck; after so many in a row the rest would fail too.
FAILURES_IN_A_ROW = 2


class GaveUp(Exception):
    """Going on makes no sense. The message says why."""


class Display(Protocol):
    def began(self, what: str) -> None:
        """A run has begun."""
        ...

    def ended(self, result: Result, seconds: float) -> None:
        """It is over, after so many seconds with all that belongs to it."""
        ...


def turns(scenario: Scenario) -> Iterator[tuple[int, Straggler, System]]:
    """Seed, straggler and system of each run in turn. Each turn begins with the next system."""
    turn = 0
    for seed in scenario.seeds:
        for straggler in scenario.stragglers:
            first = turn % len(scenario.systems)
            turn += 1
            for system in scenario.systems[first:] + scenario.systems[:first]:
                yield seed, straggler, system


class Campaign:
    """Fills `findings`. `evaluators`: by scenario; `remote`: None for a fresh server in each run."""

    def __init__(
        self,
        findings: Findings,
        evaluators: Mapping[str, Evaluator],
        data_dir: Path,
        display: Display,
        remote: Remote | None = None,
    ) -> None:
        self._findings = findings
        self._evaluators = evaluators
        self._data_dir = data_dir
        self._display = display
        self._remote = remote
        self._failures = 0
        self._ran = 0
        # Scenarios that differ in the network or the stragglers alone share the search.
        self._chosen: dict[tuple[object, ...], Choice] = {}
        self.cpu_seconds = 0.0
        """Processor time of all runs' processes, as far as it was measured."""

    def seconds(self) -> float:
        """About how long all of it takes."""
        total = 0.0
        for scenario, searches, runs in self._planned():
            for count, seconds in ((searches, scenario.search_seconds), (runs, scenario.run_seconds)):
                if count:
                    judging = self._evaluators[scenario.name].seconds(seconds)
                    total += count * (seconds + OVERHEAD_SECONDS + judging)
        return total

    @property
    def progress(self) -> str:
        """How far it has come, in words."""
        return f"after {self._ran} of {sum(searches + runs for _, searches, runs in self._planned())} runs"

    def _planned(self) -> Iterator[tuple[Scenario, int, int]]:
        """Each scenario, how many runs its search takes, and how many it has besides."""
        seen: set[tuple[object, ...]] = set()
        for scenario in self._findings.scenarios:
            systems = self._systems(scenario)
            setups = (
                {(*scenario.setup, system) for system in systems} - seen if len(scenario.learning_rates) > 1 else ()
            )
            seen |= set(setups)
            searches = len(setups) * len(scenario.learning_rates)
            yield scenario, searches, len(scenario.seeds) * len(scenario.stragglers) * len(systems)

    def run(self, scenario: Scenario) -> None:
        """Search, then measure. Raises `GaveUp`."""
        rates = self._search(scenario)
        for seed, straggler, system in turns(replace(scenario, systems=self._systems(scenario))):
            trial = Trial(scenario, system, straggler, seed, rates[system], scenario.run_seconds)
            self._findings.results.append(self._run(trial))

    def _systems(self, scenario: Scenario) -> tuple[System, ...]:
        """Those that can be measured here."""
        no_tunnel = scenario.network is not None and tunnel.why_not() is not None
        return tuple(system for system in scenario.systems if not (system.is_ddp and no_tunnel))

    def _search(self, scenario: Scenario) -> dict[System, float]:
        """The learning rate of each system, on equal machines and without a slow network.

        First the grid, the systems in turns; then beyond it, whoever is best at its edge.
        """
        systems, rates = self._systems(scenario), scenario.learning_rates
        wanted = [one for one in systems if len(rates) > 1 and (*scenario.setup, one) not in self._chosen]
        quick = replace(scenario, network=None)
        attempts: dict[System, list[Attempt]] = {system: [] for system in wanted}

        def attempt(system: System, rate: float) -> None:
            trial = Trial(quick, system, Nobody(), scenario.seeds[0], rate, scenario.search_seconds)
            attempts[system].append(Attempt.of(self._run(trial)))

        for rate in rates if wanted else ():
            for system in wanted:
                attempt(system, rate)
        for family in families(wanted):
            choice = choose(family[0], pooled([attempts[one] for one in family]))
            while len(choice.attempts) < len(rates) + MOST_BEYOND and (rate := choice.beyond) is not None:
                for system in family:
                    attempt(system, rate)
                choice = choose(family[0], pooled([attempts[one] for one in family]))
            for system in family:
                self._chosen[*scenario.setup, system] = Choice(system, choice.learning_rate, tuple(attempts[system]))
        choices = [self._chosen.get((*scenario.setup, one)) or Choice(one, rates[0], ()) for one in systems]
        self._findings.choices[scenario.name] = choices
        return {choice.system: choice.learning_rate for choice in choices}

    def _run(self, trial: Trial) -> Result:
        self._display.began(trial.title)
        began = time.monotonic()
        with TemporaryDirectory(prefix="leeway-load-") as folder:
            if trial.system.is_ddp:
                result, snapshots = ddp.run(trial, Path(folder), self._data_dir)
            else:
                result, snapshots = leeway.run(trial, Path(folder), self._data_dir, self._remote)
        result = replace(result, points=self._evaluators[trial.scenario.name].points(snapshots))
        self.cpu_seconds += (result.costs.worker_cpu_seconds or 0.0) + (result.costs.server_cpu_seconds or 0.0)
        self._ran += 1
        self._display.ended(result, time.monotonic() - began)
        self._judge(result)
        return result

    def _judge(self, result: Result) -> None:
        if result.failure is None:
            self._failures = 0
            return
        self._failures += 1
        self._findings.broken.append(f"{result.trial.title}: {result.failure}")
        if self._failures >= FAILURES_IN_A_ROW:
            raise GaveUp(f"{self._failures} runs in a row have failed")
