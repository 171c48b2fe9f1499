"""Pipelines beside `torch.distributed.pipelining` over gloo, and beside the bound of their schedule.

The one rule: the same blocks, cut, schedule, batches and micro-batches; only what carries activations and errors, and
who makes the step, differ. Where computing is sleep, nothing but our own ways can be lost.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from itertools import combinations, pairwise
from operator import mul
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from leeway.worker.pipeline.schedules import schedule as schedule_of
from leeway.worker.pipeline.schedules.efficiency import best, bound
from tests.bench.contest import Comparison, Samples, take_turns
from tests.bench.processes import ANSWER_SECONDS, Failed, Process, process, python
from tests.bench.results import Section, Table
from tests.bench.server import server
from tests.bench.staged_models import BATCH, BLOCKS, LENGTH, MICRO_BATCHES, NAP_SECONDS, SLEEPERS, WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WARM_STEPS = 3
POLL_SECONDS = 0.1
MIB = 2**20


def against_torch(rounds: int, seconds: float) -> Section:
    """Two stages."""
    half = BLOCKS // 2 + 1
    section = Section(
        "Pipelines: two stages against torch.distributed.pipelining over gloo",
        f"A transformer of {BLOCKS} blocks of {WIDTH}, {BATCH} sequences of {LENGTH} in {MICRO_BATCHES} micro-batches,"
        " 1F1B, plain SGD. torch's stages step their own parameters; Leeway's push to a server, a third process on the"
        " same two cores, and pull. Bytes are those of activations and errors, in bfloat16 beside float32.",
    )
    flags = ["--cut", f"{half},{half}"]
    found = take_turns(
        {
            "torch": lambda: _rates(_run("torch", 2, flags, seconds)),
            "Leeway": lambda: _rates(_run("leeway", 2, flags, seconds)),
            "bfloat16": lambda: _rates(_run("leeway", 2, [*flags, "--bfloat16"], seconds)),
        },
        rounds,
        warm_up_rounds=0,
    )
    torch_steps = found["torch"]["steps"]
    section.comparisons = [
        Comparison("1F1B, P = 2", "steps/s", found["Leeway"]["steps"], "torch", torch_steps, 0.8),
        Comparison("the same, bfloat16 between stages", "steps/s", found["bfloat16"]["steps"], "torch", torch_steps),
        Comparison(
            "bfloat16 between stages",
            "MiB/step",
            found["bfloat16"]["handed"],
            "float32",
            found["Leeway"]["handed"],
            0.55,
            fewer=True,
        ),
    ]
    section.tables.append(
        Table(
            "What a stage does in a step, ms; what it hands over, MiB; its memory at most, MiB",
            ("computing", "waiting", "push, server and pull", "handed over", "memory"),
            {
                f"{name}, stage {stage}": [found[name][f"{what}{stage}"].median for what in _OF_A_STAGE]
                for name in ("Leeway", "bfloat16")
                for stage in range(2)
            },
        )
    )
    return section


def against_bound(rounds: int, seconds: float) -> Section:
    """Four stages whose computing is sleep."""
    section = Section(
        "Pipelines: four stages of sleep against the bound of their schedule",
        f"{SLEEPERS} layers that sleep {1e3 * NAP_SECONDS:g} ms forward and twice that backward, 4 to a stage,"
        f" {MICRO_BATCHES} micro-batches; unequal: the layers of stage 1 take half as long again. The bound: M sum(t) /"
        " (P ((M - 1) max(t) + sum(t))) of the time of all stages is computing; for unequal stages also what the order"
        " of the schedule makes of it at best. Pushing, the server's step and pulling count as lost.",
    )
    cut = ["--model", "sleepers", "--cut", ",".join(["4"] * 4)]
    for name in ("1f1b", "gpipe", "zb-h1"):
        for slow in (-1, 1):
            if name == "zb-h1" and slow >= 0:
                continue
            flags = [*cut, "--schedule", name, "--slow", str(slow)]
            found = take_turns(
                {"Leeway": lambda flags=flags: _rates(_run("leeway", 4, flags, seconds))}, rounds, warm_up_rounds=0
            )
            times = [12 * NAP_SECONDS * (1.5 if stage == slow else 1.0) for stage in range(4)]
            forward, backward = [time / 3 for time in times], [2 * time / 3 for time in times]
            # Without a split of their backward pass sleepers gain nothing from zb-h1.
            chosen = schedule_of("1f1b" if name == "zb-h1" else name)
            steps = found["Leeway"]["steps"]
            reached = Samples(tuple(MICRO_BATCHES * sum(times) * rate / 4 for rate in steps.values))
            for words, most in (
                ("A8", bound(times, MICRO_BATCHES)),
                ("at best", best(chosen, forward, backward, MICRO_BATCHES)),
            ):
                baseline = Samples((most,) * len(reached.values))
                what = f"{name}, {'unequal' if slow >= 0 else 'equal'} stages"
                section.comparisons.append(Comparison(what, "computing", reached, words, baseline, 0.9))
    return section


def measured_cut(rounds: int, seconds: float) -> Section:
    """Four stages of sleep, on one of whose machines everything takes twice as long."""
    slowness = [1.0, 2.0, 1.0, 1.0]
    section = Section(
        "Pipelines: a cut that was measured, where one machine is half as fast",
        f"{SLEEPERS} layers that sleep {1e3 * NAP_SECONDS:g} ms forward and twice that backward; in stage 1 twice that."
        f" 1F1B, {MICRO_BATCHES} micro-batches. The stage that takes longest is that of the cut that was found, by what"
        " the layers sleep, beside the smallest there is, found by trying all cuts.",
    )
    flags = [["--model", "sleepers", "--slowness", str(each)] for each in slowness]
    cuts = {"measured": "time", "equal": "4,4,4,4"}
    found = take_turns(
        {name: lambda cut=cut: _rates(_run("leeway", 4, ["--cut", cut], seconds, flags)) for name, cut in cuts.items()},
        rounds,
        warm_up_rounds=0,
    )
    sizes = zip(*(found["measured"][f"layers{stage}"].values for stage in range(4)), strict=True)
    longest = Samples(tuple(max(map(mul, slowness, each)) for each in sizes))
    least = min(max(map(mul, slowness, each)) for each in _cuts(SLEEPERS, 4))
    section.comparisons = [
        Comparison("a measured cut", "steps/s", found["measured"]["steps"], "equal", found["equal"]["steps"], 1.25),
        Comparison(
            "the longest stage",
            "layers' time",
            longest,
            "the best cut",
            Samples((least,) * len(longest.values)),
            1.05,
            fewer=True,
        ),
    ]
    return section


def _cuts(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    for ends in combinations(range(1, layers), stages - 1):
        yield tuple(end - begin for begin, end in pairwise((0, *ends, layers)))


_OF_A_STAGE = ("computed", "waited", "pushed", "handed", "peak")


def _run(
    system: str, stages: int, flags: Sequence[str], seconds: float, own: Sequence[Sequence[str]] = ((),)
) -> list[list[dict[str, Any]]]:
    """The lines of each stage in a window of time, behind the first steps. `own`: flags of one stage, in turn."""
    with TemporaryDirectory(prefix="leeway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        url = []
        if system == "leeway":
            url = ["--url", stack.enter_context(server("--mode", "async", "--lr", "0.05")).url]
        commands = [
            python("tests.bench.staged", system, name, str(stage), str(stages), *url, *flags, *own[stage % len(own)])
            for stage in range(stages)
        ]
        running = [stack.enter_context(process(command, talks=False)) for command in commands]
        _wait_for(folder, stages, running)
        begin = time.monotonic()
        time.sleep(seconds)
        found = [_lines(folder / f"{stage}.steps") for stage in range(stages)]
    return [[line for line in lines if line["at"] >= begin] for lines in found]


def _wait_for(folder: Path, stages: int, running: Sequence[Process]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while any(len(_lines(folder / f"{stage}.steps")) < WARM_STEPS for stage in range(stages)):
        for one in running:
            one.check()
        if time.monotonic() > deadline:
            raise Failed("the stages did not come to their first steps in time")
        time.sleep(POLL_SECONDS)


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _rates(found: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """Steps a second, as the last stage makes them; of each stage, what its steps are on average."""
    last = found[-1]
    rates = {"steps": (len(last) - 1) / (last[-1]["at"] - last[0]["at"]), "handed": 0.0}
    for stage, lines in enumerate(found):
        for what in ("computed", "waited", "pushed"):
            rates[f"{what}{stage}"] = 1e3 * sum(line.get(what, 0.0) for line in lines) / len(lines)
        rates[f"layers{stage}"] = lines[-1].get("layers", 0)
        handed = [line.get("handed_bytes", 0) for line in lines]
        rates[f"handed{stage}"] = (handed[-1] - handed[0]) / (len(handed) - 1) / MIB
        rates[f"peak{stage}"] = lines[-1]["peak_bytes"] / MIB
        rates["handed"] += rates[f"handed{stage}"]
    return rates
