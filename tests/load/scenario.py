"""What is compared: scenarios, as they stand in TOML files.

The one rule: a `Scenario` that exists makes sense. A file that does not is refused in one line that names the file, the
key, and what would be right.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from leeway.worker.train.tasks.task import BUILT_IN
from tests.load.stragglers import KINDS, Straggler
from tests.load.systems import System

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance

MOST_WORKERS = 64


class ScenarioError(ValueError):
    """A scenario file is wrong. The message says which, where, and what to change."""


@dataclass(frozen=True, slots=True)
class Network:
    """Between each worker and the others: one-way delay, and the rate of each direction as the worker sees it."""

    delay_seconds: float
    up_bytes_per_second: float
    down_bytes_per_second: float

    def __post_init__(self) -> None:
        _require("network.delay_seconds", self.delay_seconds, 0 <= self.delay_seconds <= 10, "0 to 10")
        for key in ("up_bytes_per_second", "down_bytes_per_second"):
            _require(f"network.{key}", getattr(self, key), 1e3 <= getattr(self, key) <= 1e10, "1e3 to 1e10")

    @property
    def words(self) -> str:
        return (
            f"Every worker has a network of its own: {1e3 * self.delay_seconds:g} ms one way, "
            f"{self.up_bytes_per_second / 1e6:g} MB/s up and {self.down_bytes_per_second / 1e6:g} MB/s down."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One task, and all that is done with it. Raises `ValueError` where a value makes no sense.

    `run_seconds`: how long each run is watched, from the moment at which all workers are there; `search_seconds` the
    same of a run of the search for a learning rate. `snapshot_seconds`: how often the newest parameters are kept.
    `pace_seconds`: sleep in every iteration of every worker, for the arithmetic of a larger model. `test_samples`: the
    first so many held-out samples judge; None for all.
    """

    name: str
    title: str
    task: str
    model: str | None = None
    workers: int = 4
    batch_size: int
    target_accuracy: float
    run_seconds: float
    search_seconds: float
    snapshot_seconds: float = 0.25
    pace_seconds: float = 0.0
    test_samples: int | None = None
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    systems: tuple[System, ...]
    stragglers: tuple[Straggler, ...]
    network: Network | None = None

    def __post_init__(self) -> None:
        built_in = ":" in self.task or self.task in BUILT_IN
        _require("task", self.task, built_in, f"one of {', '.join(BUILT_IN)}, or module:object, or file.py:object")
        _require("workers", self.workers, 1 <= self.workers <= MOST_WORKERS, f"1 to {MOST_WORKERS}")
        _require("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        _require("target_accuracy", self.target_accuracy, 0 < self.target_accuracy <= 1, "above 0, at most 1")
        for key in ("run_seconds", "search_seconds", "snapshot_seconds"):
            _require(key, getattr(self, key), 0.05 <= getattr(self, key) <= 3600, "0.05 to 3600")
        _require("pace_seconds", self.pace_seconds, 0 <= self.pace_seconds <= 60, "0 to 60")
        _require("test_samples", self.test_samples, self.test_samples is None or self.test_samples >= 1, "1 or more")
        _require("seeds", self.seeds, all(seed >= 0 for seed in self.seeds), "0 or more, each of them")
        _require("learning_rates", self.learning_rates, all(rate > 0 for rate in self.learning_rates), "above 0, all")
        for key in ("seeds", "learning_rates", "systems", "stragglers"):
            listed = getattr(self, key)
            _require(key, listed, bool(listed), "a list of at least one")
            if len(set(listed)) < len(listed):
                raise ValueError(f"{key} names something twice")

    @property
    def task_title(self) -> str:
        """Task and model as a page names them: of a file its name alone, wherever it lies."""
        task = self.task.replace("\\", "/").rpartition("/")[2]
        return f"{task} {self.model}" if self.model else task

    @property
    def setup(self) -> tuple[Any, ...]:
        """What a learning rate is chosen for: scenarios that have it in common share the choice."""
        return self.task, self.model, self.workers, self.batch_size, self.target_accuracy, self.learning_rates


def read(path: Path) -> Scenario:
    """The scenario of a file. Raises `ScenarioError`."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: is no TOML: {error}") from error
    try:
        return _scenario(path.stem, document)
    except ValueError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _scenario(name: str, document: Mapping[str, Any]) -> Scenario:
    own = dict(document)
    if "name" in own:
        raise ValueError("name is the file's own, it is no key")
    readers: dict[str, Callable[[Any], Any]] = {
        "systems": lambda value: tuple(System.read(_typed("systems", one, str)) for one in _list("systems", value)),
        "stragglers": lambda value: tuple(_straggler(at, one) for at, one in enumerate(_list("stragglers", value), 1)),
        "seeds": lambda value: tuple(_typed("seeds", one, int) for one in _list("seeds", value)),
        "learning_rates": lambda value: tuple(
            _typed("learning_rates", one, float) for one in _list("learning_rates", value)
        ),
        "network": lambda value: _table(Network, "network", _typed("network", value, dict)),
    }
    return _table(Scenario, "", own, readers, name=name)


def _straggler(number: int, value: Any) -> Straggler:
    where = f"stragglers[{number}]"
    own = dict(_typed(where, value, dict))
    kind = own.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"{where}.kind is {kind!r}; known are {', '.join(KINDS)}")
    straggler = _table(KINDS[kind], where, own)
    for key, number_of in dataclasses.asdict(straggler).items():
        _require(f"{where}.{key}", number_of, 0 < number_of < math.inf, "above 0")
    return straggler


_T = TypeVar("_T", bound="DataclassInstance")

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float}


def _table(
    cls: type[_T],
    where: str,
    table: Mapping[str, Any],
    readers: Mapping[str, Callable[[Any], Any]] | None = None,
    **given: Any,
) -> _T:
    """Make a dataclass of a table: its keys are the fields, and `readers` read those that are not plain."""
    prefix = f"{where}." if where else ""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in given}
    for key in table:
        if key not in fields:
            raise ValueError(f"there is no key {prefix}{key}; known are {', '.join(fields) or 'none'}")
    missing = [name for name, field in fields.items() if field.default is MISSING and name not in table]
    if missing:
        raise ValueError(f"{prefix}{missing[0]} is missing")
    values = {}
    for key, value in table.items():
        if readers and key in readers:
            values[key] = readers[key](value)
        else:
            values[key] = _typed(prefix + key, value, _TYPES[str(fields[key].type).removesuffix(" | None")])
    return cls(**given, **values)


def _typed(key: str, value: Any, wanted: type) -> Any:
    """The value, when it is of that type; a whole number will do for a float."""
    if wanted is float and type(value) is int:
        value = float(value)
    names = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}
    _require(key, value, type(value) is wanted, names[wanted])
    if wanted is float:
        _require(key, value, math.isfinite(value), "a number")
    return value


def _list(key: str, value: Any) -> list[Any]:
    _require(key, value, type(value) is list, "a list")
    return list(value)


def _require(key: str, value: object, met: bool, must_be: str) -> None:
    if not met:
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{key} is {shown!r}; it must be {must_be}")
