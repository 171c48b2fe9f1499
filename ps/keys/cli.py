"""The command `ps-keys`: makes, renews and revokes what a small cluster knows its own by.

The one rule: a secret is written to a file that its owner alone can read, and to nothing else: neither to the terminal
nor to a log.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from leeway import interrupts, programs
from leeway.errors import SettingError
from leeway.protocol.addresses import is_host
from leeway.protocol.ranks import NAME_WORDS, is_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from leeway.ps.keys.cluster import Cluster

CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_EXAMPLES = """\b
Examples:
  ps-keys make cluster --server trainer.example.com --workers w0..w7
  ps-keys make cluster --workers w8
  ps-keys renew cluster
  ps-keys revoke cluster w3
  ps-keys list cluster"""

# A range of ranks, or one.
_RANGE: Final = re.compile(r"(.*?)(\d{1,9})\.\.(?:(.*?)(\d{1,9}))", re.ASCII)

# More than a small cluster has: a range is a slip of the pen then.
MAX_WORKERS: Final = 1000


class _Workers(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click alone
    name = "ranks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(rank for piece in value.split(",") for rank in ranks_of(piece.strip()))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def ranks_of(piece: str) -> list[str]:
    """Those of a range such as w0..w7, or one rank. Raises `ValueError`."""
    found = _RANGE.fullmatch(piece)
    names = [piece]
    if found:
        prefix, first, again, last = found.groups()
        if again not in ("", prefix) or int(first) > int(last):
            raise ValueError(f"{piece!r} is no range of ranks; write for example w0..w7")
        if int(last) - int(first) >= MAX_WORKERS:
            raise ValueError(f"{piece!r} are {int(last) - int(first) + 1} ranks; at most {MAX_WORKERS} at once")
        width = len(first) if first.startswith("0") else 0
        names = [f"{prefix}{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    for name in names:
        if not is_rank(name):
            raise ValueError(f"{name[:80]!r} is no rank: {NAME_WORDS}")
    return names


def _hosts(ctx: click.Context, param: click.Parameter, hosts: Sequence[str]) -> Sequence[str]:
    for host in hosts:
        if not is_host(host) or ("/" in host) or (":" in host and host.count(":") < 2):
            raise click.BadParameter(f"{host[:80]!r} is no host: a name or an address, without a port")
        if host in ("0.0.0.0", "::"):
            raise click.BadParameter(f"{host} is where a server listens; give the name or address that workers use")
    return hosts


def _days() -> Callable[[Any], Any]:
    return click.option(
        "--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long certificates are good."
    )


_FOLDER: Final = programs.GivenPath(file_okay=False, path_type=Path)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return interrupts.EXIT_CODE


@click.group(
    "ps-keys",
    cls=_Group,
    help="Make an authority, certificates and tokens for a small cluster, each in a folder of its holder.",
    epilog=_EXAMPLES,
    subcommand_metavar="make | renew | revoke | list",
    context_settings=CONTEXT_SETTINGS,
    no_args_is_help=False,
)
@click.version_option(package_name="leeway", prog_name="ps-keys")
def command() -> None:
    pass


def _cluster(folder: Path) -> Cluster:
    interrupts.end_at_once()
    from leeway.ps.keys.cluster import Cluster
    from leeway.transport.credentials.tls import now

    interrupts.raise_exceptions()
    return Cluster(folder, now())


@command.command("make")
@click.argument("folder", type=_FOLDER)
@click.option(
    "--server",
    "hosts",
    multiple=True,
    callback=_hosts,
    metavar="HOST",
    help="A name or an address by which workers reach the server; once for each. Added to those it is for.",
)
@click.option("--workers", type=_Workers(), default=(), metavar="RANKS", help="As w0..w7, or w0,w1.")
@_days()
def make(folder: Path, hosts: Sequence[str], workers: Sequence[str], days: int) -> int:
    """Make what is missing in FOLDER: what is there stays as it is."""
    cluster = _cluster(folder)
    cluster.make(hosts, workers, days)
    _tell(cluster)
    return 0


@command.command("renew")
@click.argument("folder", type=_FOLDER)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_days()
def renew(folder: Path, names: Sequence[str], days: int) -> int:
    """Make new certificates: of these, or of all that end within a month. Tokens stay."""
    cluster = _cluster(folder)
    cluster.renew(names, days)
    _tell(cluster, "no certificate ends within a month; name those that you want anew all the same")
    return 0


@command.command("revoke")
@click.argument("folder", type=_FOLDER)
@click.argument("name")
def revoke(folder: Path, name: str) -> int:
    """Take the token of NAME from the list. A server that reads the list anew (SIGHUP) lets it in no more."""
    cluster = _cluster(folder)
    until = cluster.revoke(name)
    tokens = folder / "server" / "tokens.toml"
    print(f"{name} has no token any more; give the server the new {tokens}, then kill -HUP it")
    if until is not None:
        print(f"its certificate is good until {_day(until)}: a server that asks for no token lets it in until then")
    return 0


@command.command("list")
@click.argument("folder", type=_FOLDER)
def show(folder: Path) -> int:
    """Say who has what, and when certificates end."""
    from leeway.transport.credentials import tls

    cluster = _cluster(folder)
    holders = list(cluster.holders())
    if not holders:
        raise SettingError(f"{folder} is no folder that ps-keys has made")
    print(f"{'NAME':20} {'RIGHT':8} {'ENDS (UTC)':16} FOLDER")
    for holder in holders:
        cert = holder.folder / "cert.pem"
        ends = _day(tls.certificate(cert).not_valid_after_utc) if cert.exists() else "no certificate"
        print(f"{holder.name:20} {holder.right or '-':8} {ends:16} {holder.folder}")
    return 0


def _tell(cluster: Cluster, nothing: str = "nothing was missing") -> None:
    for made in cluster.made:
        print(f"made {made}")
    if not cluster.made:
        print(nothing)
    print(f"in {cluster.folder}: ca.key stays there, each other folder is for its holder alone")


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    programs.run(command, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
