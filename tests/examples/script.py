"""A script of `examples/scripts`, run as it stands in a process of its own; what it holds at the end is kept in a file.

The one rule: only the environment tells the script what it is, as it would be told by a shell or a launcher.
"""

from __future__ import annotations

import os
import runpy
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from tests.load.forks import fork

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = Path(__file__).parents[2] / "examples" / "scripts"
RUN_SECONDS = 120.0


@dataclass
class Ended:
    """Of a script: what it printed last, its losses, and the tensors of its models."""

    said: str
    losses: list[float]
    tensors: dict[str, torch.Tensor]

    @property
    def course(self) -> tuple[float, float]:
        """What it says of the beginning and the end: "loss 2.3 -> 0.4"."""
        words = self.said.replace(",", " ").split()
        arrow = words.index("->")
        return float(words[arrow - 1]), float(words[arrow + 1])


def main(arguments: list[str]) -> None:
    """In the new process: PATH of the script, PATH of the file, NAME=VALUE of the environment."""
    path, kept, *variables = arguments
    os.chdir(Path(kept).parent)
    os.environ |= dict(variable.split("=", 1) for variable in variables)
    held = runpy.run_path(path, run_name="__main__")
    models = {name: value for name, value in held.items() if isinstance(value, torch.nn.Module)}
    tensors = {
        f"{name}.{key}": tensor.clone() for name, model in models.items() for key, tensor in model.state_dict().items()
    }
    save_file(tensors | {"losses": torch.tensor(held["losses"], dtype=torch.float64)}, kept)


def run(folder: Path, name: str, *environments: Mapping[str, str]) -> list[Ended]:
    """Run it in so many processes at a time, each with this environment; all have to end well. What each leaves behind
    is in the folder."""
    with ExitStack() as stack:
        started = []
        for place, environment in enumerate(environments):
            kept = folder / f"{name}-{place}.safetensors"
            variables = [f"{variable}={value}" for variable, value in environment.items()]
            arguments = [str(FOLDER / f"{name}.py"), str(kept), *variables]
            started.append((kept, stack.enter_context(fork(kept.stem, f"{__name__}:main", arguments, folder))))
        for _, process in started:
            process.end(RUN_SECONDS)
            if process.exit_code != 0:
                raise process.failure()
    return [_ended(kept) for kept, _ in started]


def _ended(kept: Path) -> Ended:
    tensors = load_file(kept)
    losses = tensors.pop("losses").tolist()
    return Ended(kept.with_suffix(".out").read_text().splitlines()[-1], losses, tensors)


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[str]:
    """`ps-serve` with these flags, which end its run; yields its address. It has to end by itself."""
    with fork("server", "leeway.ps.cli:main", ["--port", "0", "--log-level", "warning", *flags], folder) as server:
        yield server.lines()[0]
        server.end(RUN_SECONDS)
        if server.exit_code != 0:
            raise server.failure()
