"""The command `ps-worker`: reads its settings, then hands over to `leeway.worker.train.trainer`.

The one rule: `--help` imports nothing heavy, and a user's mistake is one line on stderr and exit code 2. Errors of
the user's own task keep their traceback.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from click.core import ParameterSource

from leeway import interrupts, programs, variables
from leeway.errors import SettingError
from leeway.worker import environment
from leeway.worker.pipeline.schedules import SCHEDULES
from leeway.worker.train import config
from leeway.worker.train.config import WorkerConfig
from leeway.worker.train.tasks.task import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_DEFAULTS: Final = {field.name: field.default for field in fields(WorkerConfig)}

TASKS_HELP: Final = "\b\nTASK is module:object, file.py:object or the name of a built-in task:\n" + "\n".join(
    f"  {name:12} {built_in.description}" for name, built_in in BUILT_IN.items()
)

_HELP = f"""Train a task as one worker of a parameter server.

{TASKS_HELP}

A setting is taken from its flag, else from its environment variable (PS_ and the flag's name: PS_BATCH_SIZE; of
--ca, --cert and --key PS_TLS_CA and so on), else it has its default. Ctrl-C and SIGTERM make the worker leave in good
order."""

_EXAMPLES = """\b
Examples:
  ps-worker digits --server http://127.0.0.1:8080 --rank w0 --steps 500
  ps-worker mnist --model cnn --batch-size 32 --data-dir ~/data --device cuda
  ps-worker train.py:Mine --local-steps 10 --local-lr 0.05
  ps-worker mnist --model cnn --rank w0 --stages 2 --stage 1
  torchrun --nproc-per-node 4 --no-python ps-worker digits"""


class SectionedCommand(click.Command):
    """A command whose options stand under headings; those that `--help` and the like bring come last."""

    def __init__(
        self,
        name: str | None,
        sections: Mapping[str, Sequence[click.Option]],
        params: Sequence[click.Parameter] = (),
        **settings: Any,
    ) -> None:
        self.sections = sections
        self._in_sections = [option for options in sections.values() for option in options]
        super().__init__(name, params=[*params, *self._in_sections], **settings)

    def invoke(self, ctx: click.Context) -> Any:
        # Before click sees it, who would print an empty line after the terminal's ^C.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return interrupts.EXIT_CODE

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rest = [
            param
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and param not in self._in_sections
        ]
        for heading, options in (*self.sections.items(), ("Other", rest)):
            rows = [row for option in options if (row := option.get_help_record(ctx))]
            with formatter.section(heading):
                formatter.write_dl(rows)


def _default_rank() -> str:
    try:
        return environment.default_rank()
    except ValueError as error:
        raise SettingError(f"{error}; or give --rank") from error


def _option(
    flag: str, type: Any, metavar: str | None, help: str, *, field: str | None = None, **more: Any
) -> click.Option:
    key = flag.removeprefix("--").replace("-", "_")
    field = field or key
    more = {"default": _DEFAULTS[field], "show_default": True, "envvar": f"PS_{key.upper()}"} | more
    return click.Option([flag, field], type=type, metavar=metavar, help=help, **more)


_FILE: Final = programs.GivenPath(exists=True, dir_okay=False, path_type=Path)


SECTIONS: Final[Mapping[str, Sequence[click.Option]]] = {
    "Server": (
        _option("--server", str, "URL", "Where ps-serve listens.", default="http://127.0.0.1:8080"),
        _option(
            "--rank",
            str,
            "NAME",
            "The worker's stable name.",
            default=_default_rank,
            show_default="what torchrun, Slurm or Kubernetes say, else host-pid",
        ),
        _option(
            "--start-together",
            int,
            "N",
            "Wait until N workers are there before the first step; ps-launch: all of them.",
        ),
    ),
    "Who this worker is": (
        _option("--token-file", _FILE, "FILE", "This worker's token, in a file that nobody else can read."),
        _option(
            "--ca",
            _FILE,
            "FILE",
            "The authorities whose certificates are believed.",
            envvar="PS_TLS_CA",
            show_default="the system's",
        ),
        _option(
            "--cert", _FILE, "FILE", "This worker's certificate, for a server that asks for one.", envvar="PS_TLS_CERT"
        ),
        _option("--key", _FILE, "FILE", "Its key; nobody else may be able to read it.", envvar="PS_TLS_KEY"),
    ),
    "Training": (
        _option("--steps", int, "N", "Iteration to reach. Default: until the server has finished."),
        _option("--batch-size", int, "B", "Samples in a batch."),
        _option("--model", str, "NAME", "Which of the task's models. Default: its first."),
        _option("--device", str, "DEVICE", "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."),
        _option("--accumulate", int, "K", "Batches whose gradients make one push."),
        _option("--local-steps", int, "H", "Local SGD steps between two pushes; above 1 deltas are pushed."),
        _option("--local-lr", float, "X", "Learning rate of the local steps."),
    ),
    "Stages of a model": (
        _option(
            "--stages", int, "P", "Spread the model's layers over P processes. Default: this one trains all of it."
        ),
        _option("--stage", int, "K", "Which stage this process is, from 0. All stages have the same --rank."),
        _option("--micro-batches", int, "M", "Pieces of a batch, which are in different stages at the same time."),
        _option(
            "--cut",
            str,
            "HOW",
            "Which layers a stage has: time or memory balances what is measured at the start; 2,3 says how many.",
        ),
        _option(
            "--schedule",
            click.Choice(tuple(SCHEDULES)),
            None,
            "gpipe: all forward passes first; 1f1b: fewer activations are held; zb-h1: less waiting.",
        ),
        _option(
            "--recompute",
            bool,
            None,
            "Keep only what a stage is handed, and compute the rest again: less memory, more time.",
            is_flag=True,
        ),
        _option(
            "--wire-dtype",
            click.Choice(config.WIRE_DTYPES),
            None,
            "Round activations and errors to bfloat16 on their way between stages. Default: as they are.",
        ),
        _option(
            "--stage-host",
            str,
            "ADDRESS",
            "Listen here for the other stages. Default: this machine's address on the way to the server.",
        ),
        _option("--stage-port", int, "PORT", "The same; 0 takes a free port."),
        _option(
            "--advertise", str, "HOST[:PORT]", "Where the other stages reach this one, where that is somewhere else."
        ),
    ),
    "Data": (
        _option("--data-dir", programs.GivenPath(file_okay=False, path_type=Path), "DIR", "Where the data sets are."),
        _option(
            "--files",
            str,
            "PATTERN",
            "Training files in the data directory, such as 'a9a/part-*': each worker reads its share of them alone. "
            "Default: one file, read by all.",
        ),
        _option(
            "--partition",
            click.Choice(config.PARTITIONS),
            None,
            "shuffle: each sample once an epoch, dealt out anew; random: a pool drawn with replacement.",
        ),
        _option("--weight", float, "W", "Size of this worker's pool under random; 1 is average."),
        _option("--seed", int, "S", "Of weights and batches; the same for all workers."),
    ),
    "Being slow on purpose": (
        _option(
            "--pace",
            float,
            "SECONDS",
            "Sleep so long in every iteration, in place of a larger model's arithmetic.",
            field="pace_seconds",
        ),
        _option(
            "--slow", float, "SECONDS", "Sleep so long in every iteration, on top of --pace.", field="slow_seconds"
        ),
        _option(
            "--slow-turns",
            int,
            "N",
            "Let the workers sleep in turns of N iterations: worker i of n while (iteration // N) mod n = i.",
        ),
        _option(
            "--slow-tail",
            float,
            "ALPHA",
            "Draw each pause of --slow from a Pareto distribution: longer than x with (SECONDS / x) ^ ALPHA, "
            f"at most {config.LONGEST_TAIL:.0f} x SECONDS.",
        ),
    ),
    "Watching": (
        _option(
            "--evaluate-every",
            int,
            "N",
            "Evaluate on the held-out data at every N-th iteration, by the first live worker; 0: only at the end.",
        ),
        _option("--metrics-host", str, "ADDRESS", "Address for the metrics."),
        _option("--metrics-port", int, "P", "Serve /metrics here; 0 takes a free port. Default: nowhere."),
        _option(
            "--metrics-insecure",
            bool,
            None,
            "Serve them beyond this machine to anybody, not to whom --ca knows alone.",
            is_flag=True,
        ),
        _option("--log-level", click.Choice(config.LOG_LEVELS), None, "Least important line that is logged."),
        _option(
            "--log-format", click.Choice(config.LOG_FORMATS), None, "auto: for people on a terminal, JSON elsewhere."
        ),
    ),
}


def task_argument() -> click.Argument:
    return click.Argument(["task"], metavar="TASK")


@click.command(
    "ps-worker",
    cls=SectionedCommand,
    params=[task_argument()],
    sections=SECTIONS,
    help=_HELP,
    epilog=_EXAMPLES,
    context_settings=CONTEXT_SETTINGS,
)
@click.version_option(package_name="leeway", prog_name="ps-worker")
@click.pass_context
def command(ctx: click.Context, /, **settings: Any) -> int:
    worker = WorkerConfig(**settings)
    if worker.stages is not None and ctx.get_parameter_source("rank") is ParameterSource.DEFAULT:
        raise SettingError("--stages needs --rank: all stages of a replica have the same name, such as w0")

    interrupts.end_at_once()
    from leeway.worker.train.trainer import run
    from leeway.worker.watching import logs

    logs.configure(worker.log_level, worker.log_format, worker.rank, stage=worker.stage)
    _warn_of_misspelled_variables()
    return run(worker)


def _warn_of_misspelled_variables() -> None:
    import structlog

    own = {str(option.envvar) for options in SECTIONS.values() for option in options}
    for name, nearest in variables.misspelled(os.environ, own).items():
        detail = f"no command knows this variable; the nearest is {nearest}"
        structlog.get_logger("worker.train").warning("a setting has no effect", setting=name, detail=detail)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `ps-worker` and end the process: 2 for a mistake that the user can mend, 130 for Ctrl-C and SIGTERM."""
    programs.run(command, arguments, terminable=True)


if __name__ == "__main__":
    main()
