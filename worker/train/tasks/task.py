"""What a task is, which ones are built in, and how a name on the command line becomes one.

The one rule: nothing heavy is imported here, so `--help` can list the tasks without torch; a task's module
is imported when the task is resolved.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast

from leeway.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    import numpy as np
    import torch
    from numpy.typing import NDArray


class Task(Protocol):
    """A model, its data and its loss. Any object with these members is one; nothing has to be inherited.

    A worker process makes one and uses it from one thread. All randomness of training comes from `model`'s
    seed and from the indices given to `batch`; a task draws none of its own.
    """

    name: str
    """What logs, tables and plots call it."""

    def model(self, seed: int) -> torch.nn.Module:
        """Return a new model on the CPU, decided by `seed` alone; global generators are left undisturbed."""
        ...

    def train_samples(self) -> int:
        """Return how many training samples there are (at least 1)."""
        ...

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, on `device`, of the training samples at `indices`, int64 (b,)."""
        ...

    def loss(self, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over the samples of a batch, a scalar that can be differentiated."""
        ...

    def evaluate(self, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """Return `loss`, and `accuracy` (0 to 1) where there is one, over the held-out data; nothing if there are none.

        The model is on `device`; its training mode is left as it was, and no gradient is touched.
        """
        ...


class FileTask(Task, Protocol):
    """A task that can leave its training samples unread, to read some files of them alone (`ps-worker --files`).

    It is made with a third argument, `of_files=True`, and has no training samples until `read_files` is called.
    """

    def read_files(self, files: Sequence[Path]) -> int:
        """Hold the training samples of these files, in place of those that it held; return how many (at least 1).

        Raises `DataError` for a file that is missing or malformed.
        """
        ...


class StagedTask(Task, Protocol):
    """A task whose model can be cut into stages, so that no process ever holds all of it (`ps-worker --stages`).

    `model` gives an `nn.Sequential`, or a module whose attribute `pipeline_blocks` names its parts in the order in
    which they run, each taking what the one before it gave. It is called under `torch.device("meta")`, where tensors
    have no memory: initial values are those that each layer's `reset_parameters` sets, or come from a file (`ps-serve
    --init`).
    The held-out data are read in pieces, because the inputs are wanted in another process than the targets.
    """

    def criterion(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Return what `loss` is of the model's outputs: the mean over the samples, a scalar."""
        ...

    def held_out_samples(self) -> int:
        """Return how many held-out samples there are."""
        ...

    def held_out(self, indices: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, on `device`, of the held-out samples at `indices`, int64 (b,)."""
        ...

    def figures(self, outputs: Any, targets: torch.Tensor) -> dict[str, float]:
        """Return what `evaluate` does, each a mean over these held-out samples, of the model's outputs for them."""
        ...


CreateTask: TypeAlias = Callable[[Path, str | None], Task]
"""Makes a task from the data directory and the model's name (None: the task's default)."""


class BuiltIn(NamedTuple):
    """Where a built-in task is (`module:object`), a line about it for `--help`, and whether it is a `FileTask`, and a
    `StagedTask`."""

    target: str
    description: str
    of_files: bool = False
    of_stages: bool = False


BUILT_IN = MappingProxyType(
    {
        "linreg": BuiltIn(
            "leeway.worker.train.tasks.linreg:LinearRegression",
            "weight on height of 352 adults (Howell1)",
            of_files=True,
        ),
        "digits": BuiltIn(
            "leeway.worker.train.tasks.digits:Digits",
            "8 x 8 digits of scikit-learn, a small MLP; no files",
            of_stages=True,
        ),
        "heights": BuiltIn(
            "leeway.worker.train.tasks.heights:Heights", "weight on height of 100 made-up people; no files"
        ),
        "mnist": BuiltIn(
            "leeway.worker.train.tasks.mnist:Mnist", "handwritten digits; model 2nn (default) or cnn", of_stages=True
        ),
        "cifar10": BuiltIn(
            "leeway.worker.train.tasks.cifar10:Cifar10", "photographs in ten classes, a small CNN", of_stages=True
        ),
        "a9a": BuiltIn(
            "leeway.worker.train.tasks.a9a:A9a", "census income, logistic regression on 123 features", of_files=True
        ),
        "shakespeare": BuiltIn(
            "leeway.worker.train.tasks.shakespeare:Shakespeare", "next character, an LSTM of 2 x 256", of_stages=True
        ),
    }
)

_MEMBERS = ("name", "model", "train_samples", "batch", "loss", "evaluate")
_METHODS = _MEMBERS[1:]
_OF_STAGES = ("criterion", "held_out_samples", "held_out", "figures")


def choose_model(task: str, asked: str | None, models: tuple[str, ...]) -> str:
    """Return the model asked for, or the first of `models`; `TaskError` if none has that name."""
    if asked is None:
        return models[0]
    if asked not in models:
        raise TaskError(f"task {task} has no model {asked!r}; it has {', '.join(models)}")
    return asked


def task(spec: str, data_dir: Path | str | None = None, model: str | None = None) -> Task:
    """Make the task that `spec` names, as `ps-worker` does: a built-in name, `module:object` or `file.py:object`.

    `data_dir`: default the environment variable `PS_DATA_DIR`, else `./data`. `model`: one of the task's models.
    Raises `TaskError` for a name that leads to no task, `DataError` where its data are missing.
    """
    return resolve(spec)(Path(data_dir or os.environ.get("PS_DATA_DIR") or "data"), model)


def resolve(spec: str) -> CreateTask:
    """Return what makes the task that `spec` names: a built-in name, `module:object` or `file.py:object`.

    The object is a class or function that takes the data directory and the model's name. Its own errors, on
    import or when called, come through unchanged, with their traceback.

    Raises:
        TaskError: there is no such built-in, file, module or object, or the object makes no task. What can
            only be told from the task itself is raised when the returned callable is called.
    """
    return _checked(spec, _named(spec))


def resolve_of_files(spec: str) -> Callable[[Path, str | None], FileTask]:
    """As `resolve`, for a task that reads files of training samples; `TaskError` for one that does not."""
    create = _named(spec)
    if not callable(getattr(create, "read_files", None)):
        raise _not_of_files(spec)
    return cast("Callable[[Path, str | None], FileTask]", _checked(spec, partial(create, of_files=True)))


def look_up(spec: str) -> None:
    """Raise `TaskError` if there is no such task, as far as can be told before anything of it is imported."""
    place, separator, _ = spec.rpartition(":")
    if not separator:
        _look_up_built_in(spec)
    elif place.endswith(".py"):
        if not Path(place).is_file():
            raise TaskError(f"there is no file {Path(place).resolve()}")
    elif not all(part.isidentifier() for part in place.split(".")):
        raise TaskError(f"{place!r} is no module name; write module:object, or file.py:object for a file")
    # The package above all: to find one within it, it would be imported.
    elif (package := place.partition(".")[0]) not in sys.modules and importlib.util.find_spec(package) is None:
        raise _no_module(place, package)


def look_up_of_files(spec: str) -> None:
    """Raise `TaskError` for a built-in task that reads no files; what another one does is known when it is imported."""
    built_in = BUILT_IN.get(spec)
    if built_in is not None and not built_in.of_files:
        raise _not_of_files(spec)


def look_up_of_stages(spec: str) -> None:
    """Raise `TaskError` for a built-in task whose model is not cut; what another one's is shows when it is made."""
    built_in = BUILT_IN.get(spec)
    if built_in is not None and not built_in.of_stages:
        *able, last = sorted(name for name, built_in in BUILT_IN.items() if built_in.of_stages)
        other = f"{', '.join(able)} and {last}"
        raise TaskError(f"task {spec} has a model that cannot be cut into stages; {other} have one that can")


def of_stages(spec: str, task: Task) -> StagedTask:
    """The task that `spec` names, as one for `--stages`. Raises `TaskError` where it lacks what that takes."""
    look_up_of_stages(spec)
    if missing := [member for member in _OF_STAGES if not _has(task, member)]:
        needed = ", ".join(_OF_STAGES)
        raise TaskError(
            f"{spec} cannot be trained in stages: it lacks {', '.join(missing)} (with --stages a task has {needed} too)"
        )
    return cast("StagedTask", task)


def _not_of_files(spec: str) -> TaskError:
    able = " and ".join(sorted(name for name, built_in in BUILT_IN.items() if built_in.of_files))
    return TaskError(f"task {spec} reads its training samples as a whole, not by --files; {able} can")


def _look_up_built_in(name: str) -> None:
    if name not in BUILT_IN:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        nearest = f"the nearest is {near[0]!r}; " if near else ""
        raise TaskError(
            f"no task {name!r}; {nearest}the built-in ones are {', '.join(BUILT_IN)},"
            " and your own is named module:object or file.py:object"
        )


def _no_module(place: str, missing: str | None) -> TaskError:
    file = place.replace(".", "/") + ".py"
    return TaskError(f"no module {missing!r} is installed or on PYTHONPATH; for a file write {file}:object")


def _named(spec: str) -> Any:
    """What the name of a task leads to; see `resolve`."""
    look_up(spec)
    if ":" not in spec:
        spec = BUILT_IN[spec].target
    place, _, attribute = spec.rpartition(":")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    create = getattr(module, attribute, None)
    if create is None:
        raise TaskError(f"{place} has no {attribute!r}; it has {_listed(_candidates(module))}")
    return create


def _checked(spec: str, create: object) -> CreateTask:
    """Refuse what is no task: as early as can be told, and in any case when it is made."""
    if not callable(create):
        raise TaskError(f"{spec} is a {type(create).__name__}; name a class or function that makes a task")
    if isinstance(create, type):
        _require_members(spec, create, _METHODS)
    try:
        inspect.signature(create).bind(Path(), None)
    except (TypeError, ValueError) as error:
        raise TaskError(f"{spec} cannot be called with (data_dir, model): {error}") from error

    def create_task(data_dir: Path, model: str | None = None) -> Task:
        task: Task = create(data_dir, model)
        _require_members(spec, task, _MEMBERS)
        return task

    return create_task


def _require_members(spec: str, candidate: object, members: tuple[str, ...]) -> None:
    missing = [member for member in members if not _has(candidate, member)]
    if missing:
        needed = ", ".join(_MEMBERS)
        raise TaskError(f"{spec} is no task: it lacks {', '.join(missing)} (a task has {needed})")


def _has(candidate: object, member: str) -> bool:
    offered = getattr(candidate, member, None)
    # The empty bodies that a class inherits from the protocol do not count.
    bodies = (getattr(protocol, member, None) for protocol in (Task, StagedTask))
    return offered is not None and getattr(offered, "__func__", offered) not in bodies


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the asked module, or a package above it: an import that fails inside it is the author's to see.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise _no_module(name, error.name) from error


def _module_of_file(path: Path) -> ModuleType:
    path = path.resolve()
    # Its neighbours can be imported, but never in place of anything installed: last on the path, not first.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"task_file_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses and typing look a class's module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _candidates(module: ModuleType) -> list[str]:
    """The classes and functions that the module itself defines, in its order."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no class or function of its own"
