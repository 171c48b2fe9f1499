"""The command `ps-data`: fetches data sets, and lists which are there.

The one rule: `--help` and `list` import nothing heavy, and whatever goes wrong is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from leeway import interrupts, programs
from leeway.errors import DataError
from leeway.worker.data.addresses import is_address
from leeway.worker.data.published import DATA_SETS
from leeway.worker.data.system import errors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from leeway.worker.data.download import Watcher
    from leeway.worker.data.published import DataSet, Download

CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

SETS_HELP: Final = "\b\nSET is\n" + "\n".join(
    f"  {data_set.name:12} {data_set.title}, for ps-worker {data_set.task}" for data_set in DATA_SETS.values()
)

_HELP = f"""Fetch the data sets of the built-in tasks from their publishers.

{SETS_HELP}

A file is checked by its SHA-256 and gets its name only then. What was broken off goes on where it was. The
licence of a set is its publisher's."""

_EXAMPLES = """\b
Examples:
  ps-data list
  ps-data get mnist
  ps-data get a9a howell --data-dir ~/data
  ps-data get cifar10 --from http://fileserver:8000"""


def _data_dir() -> Callable[[Any], Any]:
    return click.option(
        "--data-dir",
        type=programs.GivenPath(file_okay=False, path_type=Path),
        default=Path("data"),
        show_default=True,
        envvar="PS_DATA_DIR",
        metavar="DIR",
        help="Where the data sets are.",
    )


def _address(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    if text is not None and not is_address(text):
        raise click.BadParameter(f"{text!r} is no address of http or https with a host, such as http://fileserver:8000")
    return text


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        # Before click sees it, who would print an empty line after the terminal's ^C.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return interrupts.EXIT_CODE


@click.group(
    "ps-data",
    cls=_Group,
    help=_HELP,
    epilog=_EXAMPLES,
    subcommand_metavar="get SET... | list",
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=False,
)
@click.version_option(package_name="leeway", prog_name="ps-data")
def command() -> None:
    pass


@command.command("get")
@click.argument("names", type=click.Choice(list(DATA_SETS)), nargs=-1, required=True, metavar="SET...")
@_data_dir()
@click.option(
    "--from",
    "mirror",
    metavar="URL",
    callback=_address,
    help="Where another machine serves its data directory. Default: the publishers' addresses.",
)
def get(names: Sequence[str], data_dir: Path, mirror: str | None) -> int:
    """Fetch what is missing of these sets, and check what is there. One that fails does not keep back the others."""
    interrupts.end_at_once()
    from leeway.worker.data.fetching import fetch

    interrupts.raise_exceptions()
    code = 0
    for name in dict.fromkeys(names):
        try:
            fetch(DATA_SETS[name], data_dir, _Display(), mirror)
        except DataError as error:
            programs.complain("ps-data", str(error))
            code = programs.BAD_USAGE
    return code


@command.command("list")
@_data_dir()
def show(data_dir: Path) -> int:
    """Say which sets are in the data directory, and what is missing."""
    with errors_of(data_dir):
        found = {name: standing(data_set, data_dir) for name, data_set in DATA_SETS.items()}
    click.echo(f"in {data_dir}:")
    for name, words in found.items():
        click.echo(f"  {name:12} {_amount(DATA_SETS[name].size_bytes):>9}  {words}")
    return 0


def standing(data_set: DataSet, data_dir: Path) -> str:
    """What there is of a set, by the names and sizes of its files."""
    missing = data_set.missing(data_dir)
    if not missing:
        return f"there, for ps-worker {data_set.task}"
    wanted = sum(len(download.wanted) for download in data_set.downloads)
    which = (
        "all files missing" if len(missing) == wanted else f"missing: {', '.join(member.path for member in missing)}"
    )
    folder = data_dir / data_set.folder
    for path in data_set.in_place:
        if (folder / path).is_file():
            return f"{which}; {path} is there and taken in their place"
    return which


def _amount(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


class _Display:
    """A line for each file that is in its place; while one comes, a bar on a terminal."""

    @contextmanager
    def following(self, wanted: Download) -> Iterator[Watcher]:
        if not sys.stderr.isatty():
            yield _Lines()
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(wanted.path, total=wanted.size_bytes)

            class Shown(_Lines):
                def received(self, size_bytes: int) -> None:
                    bar.update(task, completed=size_bytes)

            yield Shown()

    def done(self, path: Path, what: str) -> None:
        click.echo(f"{path}  {what}")


class _Lines:
    def received(self, size_bytes: int) -> None:
        pass

    def failed(self, problem: str) -> None:
        click.echo(f"ps-data: {programs.printable(problem)}", err=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `ps-data` and end the process: 2 for whatever keeps it from its work, 130 for Ctrl-C and SIGTERM."""
    programs.run(command, arguments, terminable=True)


if __name__ == "__main__":
    main()
