"""The command `ps-top`: watch a run in the terminal, as the live page shows it in a browser.

The one rule: `--help` imports nothing heavy, whatever goes wrong is one line on stderr, and the terminal is left as it
was found.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from leeway import interrupts, programs

if TYPE_CHECKING:
    from collections.abc import Sequence

_FAILED = 1

_HELP = """Watch a run: who is ahead, who waits for whom and why, how stale the updates are.

URL is where ps-serve listens. q or Ctrl-C ends the watching, not the run; ? explains what is shown. When the output is
no terminal, one snapshot is printed, as with --once. NO_COLOR=1 takes the color away; it tells nothing that the words
do not."""

_EXAMPLES = """\b
Examples:
  ps-top
  ps-top http://trainer:8080
  ps-top --once http://trainer:8080 | grep waits"""

CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


_FILE: Final = programs.GivenPath(exists=True, dir_okay=False, path_type=Path)


@click.command("ps-top", help=_HELP, epilog=_EXAMPLES, context_settings=CONTEXT_SETTINGS)
@click.argument("url", default="http://127.0.0.1:8080", envvar="PS_SERVER")
@click.option("--once", is_flag=True, help="Print one snapshot with every worker, and exit.")
@click.option(
    "--refresh",
    type=click.FloatRange(0.1, 60.0),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Draw anew at most this often.",
)
@click.option("--token-file", type=_FILE, envvar="PS_TOKEN_FILE", metavar="FILE", help="A token that may look on.")
@click.option(
    "--ca", type=_FILE, envvar="PS_TLS_CA", metavar="FILE", help="The authorities whose certificates are believed."
)
@click.option(
    "--cert",
    type=_FILE,
    envvar="PS_TLS_CERT",
    metavar="FILE",
    help="An own certificate, for a server that asks for one.",
)
@click.option("--key", type=_FILE, envvar="PS_TLS_KEY", metavar="FILE", help="Its key.")
@click.option("--group", metavar="NAME", help="The group to show. Default: `default`, or the first that has workers.")
@click.version_option(package_name="leeway", prog_name="ps-top")
def command(
    url: str,
    once: bool,
    refresh: float,
    token_file: Path | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    group: str | None,
) -> int:
    from leeway.protocol.addresses import server_url
    from leeway.ps.top import watching
    from leeway.transport.credentials.credentials import Credentials

    try:
        url = server_url(url)
        credentials = Credentials.chosen({}, token_file, ca, cert, key)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        if once or not sys.stdout.isatty():
            watching.once(url, group, credentials)
        else:
            watching.live(url, group, refresh, credentials)
    except watching.Unwatchable as error:
        print(f"ps-top: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        # Before click sees it, who would print an empty line after the terminal's ^C.
        return interrupts.EXIT_CODE
    return 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `ps-top` and end the process: 0 done, 1 no server to watch, 2 a mistake in the call, 130 interrupted."""
    programs.run(command, arguments)


if __name__ == "__main__":
    main()
