"""The command `ps-serve`: reads its settings, then hands over to `leeway.ps.server.lifecycle`.

The one rule: `--help`, `--version`, `config show` and `trace` import nothing heavy, and a user's mistake is one line
on stderr and exit code 2, never a traceback.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from leeway import interrupts, programs, regular
from leeway.ps.settings.options import CONFIG_FILE, GROUP_SETTINGS, SECTIONS, SETTINGS, config_option, server_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.settings.config import ServerConfig

_HELP = """Serve a model's parameters to the workers that train it.

The first line printed is the address. A setting is taken from its flag, else from its environment variable
(PS_ and the flag's name: PS_LR_SCHEDULE), else from the file given with --config, else it has its default.
`ps-serve config show` tells which."""

_EXAMPLES = """\b
Examples:
  ps-serve --mode ssp --staleness 3 --workers 4 --lr 0.05
  ps-serve --port 0 --optimizer adamw --lr 0.001 --lr-schedule cosine --until 5000
  ps-serve --state-dir state --checkpoint-every 500 --resume
  PS_LR=0.2 ps-serve --config leeway.toml"""


class _Command(click.Command):
    """A command whose settings stand under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        others = [param for param in self.get_params(ctx) if param not in SETTINGS]
        for heading, options in {**SECTIONS, "Other": others}.items():
            with formatter.section(heading):
                formatter.write_dl([row for option in options if (row := option.get_help_record(ctx))])


class _Group(_Command, click.Group):
    """The same with commands below it, which are listed last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(
    "ps-serve",
    cls=_Group,
    params=[*SETTINGS, config_option()],
    help=_HELP,
    epilog=_EXAMPLES,
    invoke_without_command=True,
    subcommand_metavar="[config show | trace HISTORY]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="leeway", prog_name="ps-serve")
@click.pass_context
def command(ctx: click.Context, /, **settings: Any) -> int:
    if ctx.invoked_subcommand is None:
        return _serve(server_config(ctx))
    for setting in SETTINGS:
        if setting.origin(ctx) == "flag":
            flag = setting.opts[0]
            if ctx.invoked_subcommand == "trace":
                raise click.UsageError(f"{flag} is for serving; ps-serve trace takes none of the settings")
            raise click.UsageError(f"put {flag} behind the command: ps-serve config show {flag} ...")
    return 0


@command.group("config", no_args_is_help=False)
def config_group() -> None:
    """Look at the settings."""


@config_group.command("show", cls=_Command, params=[*SETTINGS, config_option()])
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show(ctx: click.Context, /, as_json: bool, **settings: Any) -> int:
    """Print every effective setting and where it comes from. Takes all options of ps-serve."""
    config = server_config(ctx)
    rows = _rows(ctx, config)
    if as_json:
        values = {key: {"value": value, "origin": origin} for key, value, origin in rows}
        for key, why in config.without_effect:
            values[key]["no_effect"] = why
        click.echo(json.dumps(values, indent=2, default=str))
        return 0
    no_effect = dict(config.without_effect)
    rows = [
        (key, value, f"{origin}; no effect: {no_effect[key]}" if key in no_effect else origin)
        for key, value, origin in rows
    ]
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        widths = [max(len(_text(row[column])) for row in rows) for column in (0, 1)]
        for key, value, origin in rows:
            click.echo(f"{key:{widths[0]}}  {_text(value):{widths[1]}}  {origin}")
    return 0


@command.command("trace")
@click.argument("history", type=programs.GivenPath(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=programs.GivenPath(path_type=Path),
    metavar="FILE",
    help="Where to.  [default: standard output]",
)
def trace(history: Path, output: Path | None) -> int:
    """Make a trace of a run, for Perfetto or chrome://tracing, from the history that `--history` wrote."""
    from leeway.errors import HistoryError
    from leeway.ps.watching.recording import Recording
    from leeway.ps.watching.trace import write

    recording = Recording(history)
    try:
        if output is None:
            write(recording, sys.stdout)
        else:
            # Under another name until it is whole: a history that turns out to be none leaves nothing behind.
            part = output.with_name(f"{output.name}.part")
            try:
                with open(part, "w", encoding="utf-8", opener=regular.private) as file:
                    write(recording, file)
                os.replace(part, output)
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
    except HistoryError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or output or 'standard output'}: {error.strerror}") from error
    if recording.unfinished is not None:
        raise click.ClickException(
            f"{history}, line {recording.unfinished}: half a line, so its server was killed or still runs; "
            "the trace has all that is above it"
        )
    return 0


def _rows(ctx: click.Context, config: ServerConfig) -> list[tuple[str, Any, str]]:
    """(key, value, origin) of every setting, then of what the group tables say, then of misspelled variables."""
    rows = [(setting.key, getattr(config, setting.name or ""), setting.origin(ctx)) for setting in SETTINGS]
    for group in config.named_groups:
        file = ctx.meta[CONFIG_FILE]
        origin = f"file {file.path}"
        rows.append((f"group.{group.name}.keys", list(group.keys), origin))
        rows += [
            (f"group.{group.name}.{key}", getattr(group, GROUP_SETTINGS[key].name or ""), origin)
            for key in file.group_settings[group.name]
        ]
    known = {key for key, _, _ in rows}
    # What is in it is not shown: it may be meant for another program.
    return rows + [(name, None, "environment") for name, _ in config.without_effect if name not in known]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _print_table(rows: list[tuple[str, Any, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for key, value, origin in rows:
        style = "dim" if origin == "default" else None
        table.add_row(key, _text(value), origin, style=style)
    Console().print(table)


def _serve(config: ServerConfig) -> int:
    interrupts.end_at_once()
    from leeway.ps.server.lifecycle import serve

    return serve(config)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `ps-serve` and end the process.

    0 done; 1 a failure of the server's own, or its last state could not be saved; 2 what the user can mend: settings, a
    state directory that cannot be used, a damaged checkpoint; 130 Ctrl-C or SIGTERM before it serves.
    """
    _hold_standard_streams()
    programs.run(command, arguments)


def _hold_standard_streams() -> None:
    """A stream that was closed (`2>&-`) leaves its number to the next file that is opened: lines would go in there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
