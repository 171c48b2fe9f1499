"""The second demo: a small GPT on three unlike workers, one of which is killed and comes back.

    make demo-gpt      or, in an environment with the project installed,
    python -m tests.demo.gpt

Writes a picture, the run's log and its history to `out/demo-gpt`.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.text import Text as Shown

from tests.demo import ending
from tests.demo.gpt.plan import Plan
from tests.demo.gpt.run import Story, run
from tests.demo.gpt.teller import Teller
from tests.demo.viewing import Viewing

WRITTEN_CHARACTERS = 240


def main() -> int:
    options = _options()
    plan = Plan()
    console = Console()
    viewing = Viewing(console, f"[bold]A small GPT, and a worker that dies.[/] {plan}", opens=options.open)
    options.out.mkdir(parents=True, exist_ok=True)
    with run(plan, options.out, Teller(console, viewing)) as story:
        console.print(f"{len(story.versions)} versions were kept; now it is found out how good they are")
        _show(console, plan, story, options.out / "gpt.png")
        if options.keep:
            with suppress(KeyboardInterrupt):
                console.print(f"The server stays up until Ctrl-C: {story.address}", soft_wrap=True)
                story.stage.hold()
    return 0


def _show(console: Console, plan: Plan, story: Story, picture: Path) -> None:
    # torch is imported when the workers are gone: until then the cores are theirs.
    from tests.demo import timeline
    from tests.demo.gpt import text
    from tests.demo.gpt.evaluation import Evaluator
    from tests.demo.gpt.picture import draw

    learnt = text.load()
    evaluator = Evaluator(learnt)
    happened = timeline.read(story.history)
    curve = evaluator.curve(story.versions, happened)
    draw(picture, plan, f"A character GPT learns {learnt.name}", happened, story.killed_at, curve)
    written = evaluator.written(story.versions[max(story.versions)], WRITTEN_CHARACTERS)
    console.print(Panel(Shown(written), title="what it writes now", title_align="left"))
    console.print(
        f"Loss on text that nobody trains on: {curve[0][1]:.2f} at the start, {curve[-1][1]:.2f} at the end, after "
        f"{happened.worker_steps} updates in the {happened.seconds:.0f} s since all had begun; "
        f"largest lag {happened.largest_lag}.",
        soft_wrap=True,
    )
    console.print(f"Picture: {picture}", soft_wrap=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo-gpt", description="A small GPT on three workers; one is killed.")
    parser.add_argument("--out", type=Path, default=Path("out/demo-gpt"), metavar="DIR", help="where to [%(default)s]")
    parser.add_argument("--open", action="store_true", help="open the live page in a browser")
    parser.add_argument("--keep", action="store_true", help="leave the server up until Ctrl-C")
    return parser.parse_args()


if __name__ == "__main__":
    ending.run("demo-gpt", main)
