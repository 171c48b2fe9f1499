"""The live page in every situation, at three widths: `python -m tests.ps.page.matrix FOLDER` saves a picture of each.

The one rule: what is shown is made up (`made_up.py`), how it is drawn is not: the page's own files in a real Chromium.
`faults` says what is wrong with a picture, for the test beside this file.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import click

from tests.ps.page.browser import chromium
from tests.ps.page.made_up import PHASES, Case, telling

WIDTHS = (390, 1280, 1920)

NAN = None  # as the server tells what is not finite

CASES = (
    *(Case(workers, mode) for workers in (2, 12, 60) for mode in ("ssp", "sync", "async")),
    *(Case(12, "ssp", phase) for phase in PHASES if phase != "during"),
    *(Case(2, "sync", phase) for phase in ("begun", "switched", "gone")),
    Case(1, "async"),
    Case(61, "ssp"),
    Case(12, "sync", losses=(2.3, 4e9)),
    Case(12, "async", losses=(2.3, 1.0, 1e9, NAN), lead=100_000),
    Case(12, "ssp", losses=(1e-12, 3e-13)),
    Case(12, "ssp", losses=(1e300, -1e300), scale=10**9, seconds=9e6),
    Case(2, "ssp", losses=(NAN, NAN), bound=0),
    Case(12, "ssp", long_names=True, silent=True),
    Case(60, "sync", long_names=True),
    Case(2, "ssp", stages=4, forming=1),
    Case(2, "sync", "begun", stages=2),
    Case(12, "async", stages=16, forming=12, long_names=True),
    Case(1, "async", stages=64),
    Case(0, "sync", "empty", stages=4, forming=2),
    Case(12, "async", lead=5_000, figures=("loss", "accuracy", "a-figure-whose-name-is-rather-long", "perplexity")),
)

_BOXES = Path(__file__).with_name("boxes.js").read_text()


def show(page, server, case):
    """Open the page on a case and wait until all of it is drawn."""
    server.tell(case)
    page.open(server.url + "/")
    told = {"finished": "server ended", "stopping": "server ended", "lost": "no answer"}.get(case.phase, "live")
    page.until_text("#connection", told)
    page.until(lambda: page.text("#fact-epoch") != "–", "the state")
    settle(page)


def settle(page):
    """Two frames: sizes are observed, and what depends on them drawn."""
    page.driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)));"
    )


def faults(page):
    """What lies on, beside or outside of where it should, and whether the headline and its sentence disagree."""
    return [*page.js(_BOXES), *disagreements(page.text("#headline"), page.text("#detail"), page.driver.title)]


def disagreements(headline, detail, title):
    """Where the headline, the sentence below it and the window's title contradict each other."""
    found = []
    named = set(re.findall(r"for (\S+?)[,.;]? ", f"{detail} ")) - {"a", "the", "long"}
    if headline.startswith("Nobody holds") and (re.search(r"waited? for \w+-?\w*\d", detail) or named):
        found.append(f"{headline!r}, and then {detail!r}")
    if "holds 0" in title or "hold 0" in title:
        found.append(f"the title says {title!r}")
    if "hold" in headline and not headline.startswith("Nobody") and detail.startswith("No worker"):
        found.append(f"{headline!r}, and then {detail!r}")
    return found


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", default="", help="Cases whose name has this in it.")
@click.option("--width", type=int, multiple=True, default=WIDTHS)
@click.option("--scheme", type=click.Choice(["dark", "light"]), default="light", show_default=True)
def main(folder: Path, only: str, width: tuple[int, ...], scheme: str) -> None:
    """Save a picture of each case to FOLDER, and print what is wrong with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, telling() as server, chromium(Path(profile)) as page:
        page.prefer(color_scheme=scheme, reduced_motion="reduce")
        for case in CASES:
            if only not in str(case):
                continue
            for pixels in width:
                page.resize(pixels, 900)
                if pixels == width[0]:
                    show(page, server, case)
                settle(page)
                for fault in faults(page)[:12]:
                    click.echo(f"{case} {pixels}: {fault}")
                page.picture(folder / f"{str(case)[:100].replace('/', '_')}-{pixels}.png")


if __name__ == "__main__":
    main()
