"""The command `ps-launch`: a server and its workers on this machine, as one.

The one rule: there is no second list of options. Those of `ps-worker` are taken from that command, and what it
does not know is handed to `ps-serve`.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import signal
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import click
from click.core import ParameterSource

from leeway import programs
from leeway.errors import DataError, SettingError, TaskError
from leeway.protocol import documents, routes
from leeway.protocol.fields import shown
from leeway.worker.launch.children import STOP_SECONDS, Children, Program
from leeway.worker.starting import START_BARRIER
from leeway.worker.train import cli
from leeway.worker.train.config import WorkerConfig
from leeway.worker.train.tasks.task import look_up, look_up_of_files, look_up_of_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from leeway.transport.credentials.credentials import Credentials

# A name, a line of its, and whether it goes to stderr.
Write: TypeAlias = "Callable[[str, str, bool], None]"

SERVER: Final = "server"

# What ps-serve says of an option that it does not know, in the words of click.
_UNKNOWN_OPTION = re.compile(r"No such option:? '?(--[\w-]+)")

# Between a worker's name and the number of a stage; in no name that is given here.
_STAGE = "."

# How much alike two options are, of 1, where one may be a slip of the other.
_NEAR = 0.7

# In the place of the server's, to judge options before there is one.
_NO_ADDRESS = "http://127.0.0.1"

# How long the server, a process of this machine, may take to say whether all have started.
_ASK_SECONDS = 5.0

# Decided here, for each worker anew.
_OWN = {"server", "rank", "metrics_port"}
# About one process, or about several machines: no options of this command.
_LEFT_OUT = {"server", "rank", "stage", "stage_host", "stage_port", "advertise"}
# Wanted by server and workers alike: given to them through the environment.
_COMMON = {"log_level", "log_format"}

_COLORS = ("cyan", "yellow", "magenta", "green", "blue", "red")

_HELP = f"""Run a task: a server and its workers, as processes of this machine.

{cli.TASKS_HELP}

TASK comes first. Options of ps-worker hold for every worker. Options that are not listed below are handed to
ps-serve: --mode, --staleness, --optimizer, --lr, --until and so on, see ps-serve --help.

A worker that fails does not stop the others, unless they still wait for it to start together; a stage that fails
ends the other stages of its worker. At the end, at Ctrl-C, and when the server fails, what still runs is asked to
end, and killed after {STOP_SECONDS:.0f} seconds. The exit code is the worst of theirs."""

_EXAMPLES = """\b
Examples:
  ps-launch digits --workers 4 --mode sync --steps 200
  ps-launch digits --workers 4 --mode ssp --staleness 3 --lr 0.05 --steps 200
  ps-launch digits --workers 4 --mode async --steps 200 --slow 0.2 --slow-turns 4
  ps-launch mnist --model cnn --stages 2 --workers 2 --steps 200
  ps-launch heights --workers 2 --steps 100 --for w1 "--slow 0.5 --batch-size 16\""""

_SECTIONS: Final[Mapping[str, Sequence[click.Option]]] = {
    "Launching": (
        click.Option(
            ["--workers"],
            type=click.IntRange(min=1),
            default=2,
            show_default=True,
            envvar="PS_WORKERS",
            metavar="N",
            help="Workers to start: w0, w1 and so on. The server waits for all of them. With --stages each is several "
            "processes: w0.0, w0.1 and so on.",
        ),
        click.Option(
            ["--for", "further"],
            type=(str, str),
            multiple=True,
            metavar="NAME OPTIONS",
            help="More options for one worker, or for one stage of it, as one quoted text. May be given again.",
        ),
    ),
    **{
        heading: [option for option in options if option.name not in _LEFT_OUT]
        for heading, options in cli.SECTIONS.items()
    },
}


@click.command(
    "ps-launch",
    cls=cli.SectionedCommand,
    params=[cli.task_argument(), click.Argument(["server_options"], nargs=-1, type=click.UNPROCESSED)],
    sections=_SECTIONS,
    help=_HELP,
    epilog=_EXAMPLES,
    context_settings=cli.CONTEXT_SETTINGS | {"ignore_unknown_options": True},
)
@click.version_option(package_name="leeway", prog_name="ps-launch")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    task: str,
    workers: int,
    further: Sequence[tuple[str, str]],
    server_options: Sequence[str],
    **settings: Any,
) -> int:
    if task.startswith("-"):
        raise click.UsageError(f"TASK comes first: ps-launch TASK {task} ...")
    stages = settings["stages"]
    members = [Member(f"w{index}", stage) for index in range(workers) for stage in _numbers(stages)]
    for name, _ in further:
        if not any(name in (member.rank, member.name) for member in members):
            raise click.UsageError(f"--for {name}: there is no such worker; they are {', '.join(map(str, members))}")
    # What is wrong for every worker is said once, before anything is started.
    look_up(task)
    if stages is not None:
        look_up_of_stages(task)
    WorkerConfig(task=task, server=_NO_ADDRESS, rank=members[0].rank, stage=members[0].stage, **settings)
    own_options = {member: list(_own_options(member, further)) for member in members}

    given = list(_given(ctx))
    common = {str(option.envvar): str(settings[name]) for name, option in given if name in _COMMON}
    if "PS_LOG_FORMAT" not in {**os.environ, **common} and sys.stderr.isatty():
        common["PS_LOG_FORMAT"] = "console"
    shared = [text for name, option in given if name not in _OWN | _COMMON for text in _said(option, settings[name])]
    # The workers share the cores; without a limit each would start a thread for every core.
    # A worker that starts first would be done before the last one has joined.
    together = settings["start_together"]
    if ctx.get_parameter_source("start_together") is click.core.ParameterSource.DEFAULT:
        together = workers
        shared += ["--start-together", str(together)]
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, _cores() // len(members)))}

    def arguments(index: int, address: str) -> list[str]:
        member = members[index]
        own = ["--server", address, "--rank", member.rank]
        if member.stage is not None:
            own += ["--stage", str(member.stage)]
        if (port := settings["metrics_port"]) is not None:
            own += ["--metrics-port", str(port and port + index)]
        return [task, *shared, *own, *own_options[member]]

    def programs(address: str) -> Iterator[Program]:
        for index, member in enumerate(members):
            command = [*_python("leeway.worker.train.cli"), *arguments(index, address)]
            yield Program(member.name, command, common | threads)

    for index, member in enumerate(members):
        _judge(member.name, arguments(index, _NO_ADDRESS))

    serve = [*_python("leeway.ps.cli"), "--port", "0", "--workers", str(workers), *server_options]
    names = [member.name for member in members]
    from leeway.transport.credentials.credentials import Credentials

    own = Credentials.chosen({}, *(settings[name] for name in ("token_file", "ca", "cert", "key")))
    return run(Program(SERVER, serve, common), programs, _advising(_printer(names)), together, credentials=own)


@dataclass(frozen=True, slots=True)
class Member:
    """A worker, or one stage of it: a process of its own. `name`: as its lines have it."""

    rank: str
    stage: int | None = None

    @property
    def name(self) -> str:
        return self.rank if self.stage is None else f"{self.rank}{_STAGE}{self.stage}"

    def __str__(self) -> str:
        return self.name


def _numbers(stages: int | None) -> Iterable[int | None]:
    return (None,) if stages is None else range(stages)


def _said(option: click.Option, value: Any) -> list[str]:
    """An option as it is given on a command line."""
    return [option.opts[0]] if option.is_flag else [option.opts[0], str(value)]


def run(
    server: Program,
    workers: Callable[[str], Iterator[Program]],
    write: Write,
    together: int = 1,
    stop_seconds: float = STOP_SECONDS,
    credentials: Credentials | None = None,
) -> int:
    """Start the server and, with the address that is its first line, the workers; follow them to their end.

    The server is ended when no worker is left. `together`: how many workers wait for each other before the first step;
    when one has failed and fewer are left, nobody would ever begin, and all are ended. Returns the worst exit code.
    """
    with Children(write, stop_seconds) as children:
        children.start(server)
        address = children.first_line(SERVER)
        if address is None:
            write("launch", f"server ended with exit code {children.worst_code} before it had an address", True)
            return children.worst_code or 1
        try:
            programs = list(workers(address))
            write("launch", _starting([program.name for program in programs]), False)
            for program in programs:
                children.start(program)
            _follow(children, write, address, together, stop_seconds, credentials)
        finally:
            # The workers first: they leave in good order while there is a server to tell.
            children.stop(*(name for name in children.running if name != SERVER))
    return children.worst_code


def _starting(names: Sequence[str]) -> str:
    """So that nobody wonders at the silence until the first has joined."""
    return f"starting {', '.join(names)}; each loads torch and its data before it joins"


def _follow(
    children: Children,
    write: Write,
    address: str,
    together: int,
    stop_seconds: float,
    credentials: Credentials | None,
) -> None:
    """Follow server and workers until there is nothing more to wait for."""
    over = False
    for name, code in children.ends():
        if code:
            write("launch", f"{name} ended with exit code {code}", True)
        if name == SERVER and not code:
            # It has finished; the workers are told so and end by themselves.
            children.wait(stop_seconds)
        elif code and code != programs.BAD_USAGE and not over:
            over = _must_end(name, children, write, together, lambda: _have_started(address, credentials))
        # A mistake in the command line: all workers have the same one, so there is nothing to go on with.
        over = over or name == SERVER or code == programs.BAD_USAGE or children.running == (SERVER,)
        if over and children.all_told:
            return


def _must_end(name: str, children: Children, write: Write, together: int, have_started: Callable[[], bool]) -> bool:
    """After this process has failed: whether all others would wait in vain. The other stages of its worker would, and
    are ended."""
    if siblings := [other for other in children.running if other != SERVER and _worker_of(other) == _worker_of(name)]:
        write("launch", f"{', '.join(siblings)} cannot go on without {name}, and nobody restarts it: ended too", True)
        children.stop(*siblings)
    left = {_worker_of(other) for other in children.running if other != SERVER}
    if not 0 < len(left) < together or have_started():
        return False
    write("launch", f"{name} failed before {together} workers could start together: the rest is ended", True)
    return True


def _worker_of(name: str) -> str:
    return name.partition(_STAGE)[0]


def _have_started(address: str, credentials: Credentials | None) -> bool:
    """Whether the workers are through the barrier of `--start-together`. True if the server does not say: if it has
    failed, its own end is told."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if credentials is not None and address.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=credentials.to_client()))
    direct = urllib.request.build_opener(*handlers)
    request = urllib.request.Request(
        address + routes.STATUS, headers=credentials.headers if credentials is not None else {}
    )
    try:
        with direct.open(request, timeout=_ASK_SECONDS) as reply:
            return bool(documents.parse(reply.read())["barriers"].get(START_BARRIER, 0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True


def _own_options(member: Member, further: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What `--for` says of one worker or stage, taken apart as a shell does."""
    for whose, texts in further:
        if whose in (member.rank, member.name):
            try:
                yield from shlex.split(texts)
            except ValueError as error:
                raise click.UsageError(f"--for {whose} {shown(texts)}: {error}") from None


def _judge(rank: str, arguments: list[str]) -> None:
    """Say what the worker would say of its options, before there is one."""
    try:
        with cli.command.make_context(rank, arguments) as ctx:
            config = WorkerConfig(**ctx.params)
        if config.files is not None:
            look_up_of_files(config.task)
            # numpy is wanted for it, and by no other launch.
            from leeway.worker.train.data.shares import find

            find(config.files, config.data_dir, config.start_together)
    except click.UsageError as error:
        raise click.UsageError(f"{rank}: {error.format_message()}") from None
    except (SettingError, TaskError, DataError) as error:
        raise type(error)(f"{rank}: {error}") from None


def _given(ctx: click.Context) -> Iterator[tuple[str, click.Option]]:
    """The worker's options that stand on the command line. Those of the environment reach the workers anyway."""
    for options in cli.SECTIONS.values():
        for option in options:
            if ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
                yield option.name, option


def _python(module: str) -> list[str]:
    """Run a module of ours. -P: as with the installed commands, a `queue.py` in the current folder is not imported."""
    return [sys.executable, "-P", "-m", module]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _advising(write: Write) -> Write:
    """Writes the same, and after a complaint of the server about an option the nearest one that it cannot know."""
    own = [option.opts[0] for options in _SECTIONS.values() for option in options]

    def write_more(name: str, line: str, is_error: bool) -> None:
        write(name, line, is_error)
        unknown = _UNKNOWN_OPTION.search(line) if name == SERVER and is_error else None
        if unknown and (near := difflib.get_close_matches(unknown[1], own, n=1, cutoff=_NEAR)):
            write("launch", f"or is {unknown[1]} meant to be {near[0]}, of ps-launch and ps-worker?", True)

    return write_more


def _printer(ranks: Sequence[str]) -> Write:
    """Print lines under their names, each name in its color on a terminal; errors go to stderr."""
    names = [SERVER, *ranks, "launch"]
    width = max(len(name) for name in names)
    colors = {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(names)}

    def write(name: str, line: str, is_error: bool) -> None:
        click.echo(f"{click.style(f'{name:{width}} |', fg=colors[name])} {line}", err=is_error)

    return write


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `ps-launch`."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    programs.run(command, arguments, terminable=True)


if __name__ == "__main__":
    main()
