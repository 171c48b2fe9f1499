"""The parts of `docs/` that are made from the code: tables of settings and metrics, and the output of `--help`.

A part stands between `<!-- generated: NAME -->` and `<!-- end of generated -->`. `python -m tests.documented` tells
which pages are stale; with `--rewrite` it writes them anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import leeway.ps.cli
import leeway.ps.keys.cli
import leeway.ps.top.cli
import leeway.worker.data.cli
import leeway.worker.launch.cli
import leeway.worker.train.cli
from leeway.ps.settings.options import GROUP_SETTINGS, SETTINGS
from leeway.ps.watching import catalogue as server_catalogue
from leeway.worker.data.published import DATA_SETS
from leeway.worker.watching import catalogue as worker_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import click

    from leeway.protocol.metrics import Metric

DOCS = Path(__file__).parents[1] / "docs"
HELP_COLUMNS = 100

_PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _help(command: click.Command, group: str = "") -> str:
    name = f"{group} {command.name}".lstrip()
    # Without parsing, so that nothing in the environment of this process shows in the page.
    with command.make_context(name, [], resilient_parsing=True, terminal_width=HELP_COLUMNS) as context:
        return f"```\n$ {name} --help\n{context.get_help()}\n```"


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    return "" if option.default is None else f"`{option.default}`"


def _worker_options() -> Iterator[click.Option]:
    for options in leeway.worker.train.cli.SECTIONS.values():
        yield from options


def _server_settings() -> str:
    return _table(
        ("flag", "variable", "key in the file", "in groups", "default"),
        (
            (
                f"`{setting.opts[0]}`",
                f"`{setting.envvar}`",
                f"`{setting.key}`",
                "yes" if setting.key in GROUP_SETTINGS else "",
                _default(setting),
            )
            for setting in SETTINGS
        ),
    )


def _worker_settings() -> str:
    rows = ((f"`{option.opts[0]}`", f"`{option.envvar}`", _default(option)) for option in _worker_options())
    return _table(("flag", "variable", "default"), rows)


def _published() -> str:
    rows = (
        (
            f"`{data_set.name}`",
            f"`{download.path}`",
            f"{download.size_bytes:,}",
            "<br>".join(f"<{address}>" for address in download.addresses),
            f"`{download.sha256}`, {download.origin}",
        )
        for data_set in DATA_SETS.values()
        for download in data_set.downloads
    )
    return _table(("set", "file", "bytes", "addresses", "SHA-256"), rows)


def _metrics(catalogue: Iterable[Metric]) -> str:
    return _table(
        ("metric", "type", "labels", "meaning"),
        (
            (f"`{metric.name}`", metric.type, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
            for metric in catalogue
        ),
    )


def parts() -> dict[str, str]:
    """Every generated part by its name."""
    return {
        "ps-serve-settings": _server_settings(),
        "ps-serve-help": _help(leeway.ps.cli.command),
        "ps-worker-settings": _worker_settings(),
        "ps-worker-help": _help(leeway.worker.train.cli.command),
        "ps-launch-help": _help(leeway.worker.launch.cli.command),
        "ps-top-help": _help(leeway.ps.top.cli.command),
        "ps-data-help": _help(leeway.worker.data.cli.command),
        "ps-data-get-help": _help(leeway.worker.data.cli.get, "ps-data"),
        "ps-keys-help": _help(leeway.ps.keys.cli.command),
        "ps-keys-make-help": _help(leeway.ps.keys.cli.command.commands["make"], "ps-keys"),
        "published-data": _published(),
        "server-metrics": _metrics(server_catalogue.CATALOGUE),
        "worker-metrics": _metrics(worker_catalogue.CATALOGUE),
    }


def stale_pages() -> dict[Path, str]:
    """The pages that are not as the code would have them, and what they should be."""
    made = parts()
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
    fresh = {
        page: _PART.sub(lambda part: f"{part[1]}{made[part['name']]}\n{part[3]}", text) for page, text in pages.items()
    }
    return {page: fresh[page] for page, text in pages.items() if text != fresh[page]}


def main() -> int:
    """Tell, or with `--rewrite` mend, what is stale. Exit code 1 when something is left to do."""
    stale = stale_pages()
    for page, text in stale.items():
        print(page.relative_to(DOCS.parent))
        if "--rewrite" in sys.argv:
            page.write_text(text, encoding="utf-8")
    return 1 if stale and "--rewrite" not in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
