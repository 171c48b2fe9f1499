"""Makes the pictures of the live page in the docs: `python -m tests.ps.page.screenshot [FILE]`. Takes a minute.

Beside FILE there will be one of the page's controls.

The one rule: it shows a real run. Six workers train on the digits under ssp, one of them slow; half way the policy is
sync for a while.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from tests.end_to_end.commands import ROOT, Commands, Server
from tests.ps.page.browser import Page, chromium

PICTURE = ROOT / "docs" / "images" / "live-page.png"

SLOW_SECONDS = (0.06, 0.08, 0.07, 0.19, 0.09, 0.1)
FLAGS = ("--batch-size", 32, "--evaluate-every", 10)

# What happens when, in seconds since the first version.
SYNC_AT, SSP_AT, PICTURE_AT = 18.0, 30.0, 48.0


def take(page: Page, server: Server, picture: Path) -> None:
    page.open(server.url + "/")
    started = time.monotonic()
    for at, policy in ((SYNC_AT, {"mode": "sync"}), (SSP_AT, {"mode": "ssp", "staleness": 3})):
        time.sleep(max(0.0, started + at - time.monotonic()))
        server.ask("PUT", "/v1/policy", policy)
    time.sleep(max(0.0, started + PICTURE_AT - time.monotonic()))
    # A moment that shows what there is to be seen: some wait, and not all.
    page.until(lambda: 3 <= (page.lane("w3") or {}).get("awaited", 0) <= 4, "that some wait for w3")
    page.picture(picture)
    page.resize(1000, 640)
    page.find("#control").click()
    page.js(
        "document.getElementById('policy-bound').value = 6;"
        "document.getElementById('policy-form').dispatchEvent(new Event('input'))"
    )
    page.until_text("#policy-foresight", "on at once")
    page.picture(picture.with_stem(f"{picture.stem}-controls"), whole=False)


@click.command()
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path), default=PICTURE)
@click.option("--scheme", type=click.Choice(["dark", "light"]), default="dark", show_default=True)
@click.option("--width", type=click.IntRange(320), default=1440, show_default=True, help="CSS pixels.")
def main(picture: Path, scheme: str, width: int) -> None:
    """Write the picture to FILE."""
    with tempfile.TemporaryDirectory() as folder, Commands(Path(folder)) as commands:
        server = commands.serve("--mode", "ssp", "--staleness", 3, "--workers", len(SLOW_SECONDS), "--lr", 0.01)
        for index, seconds in enumerate(SLOW_SECONDS):
            commands.work("digits", server, f"w{index}", *FLAGS, "--slow", seconds)
        server.version(at_least=2)
        with chromium(Path(folder) / "profile") as page:
            page.prefer(color_scheme=scheme, reduced_motion="reduce")
            page.resize(width, 900)
            take(page, server, picture)
    click.echo(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
