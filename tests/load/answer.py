"""The answer in words, made from the figures alone: what the modes cost on equal machines, and what they save.

The one rule: no difference is claimed that is smaller than the spread of the seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.load.stragglers import Constant, Nobody
from tests.load.systems import ASYNC, DDP, SYNC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.load.comparison import Comparison, Entry, Spread

# Ranks whose settled paces differ by less go at one pace.
SAME_PACE = 1.1


@dataclass(frozen=True, slots=True)
class Passage:
    """Sentences under a heading."""

    heading: str
    sentences: tuple[str, ...]


def seconds(spread: Spread) -> str:
    """ "1.2 s (1.1 to 1.4)"; what was never reached has no number."""
    if math.isinf(spread.median):
        return "never"
    high = "never" if math.isinf(spread.high) else f"{spread.high:.2g}"
    return f"{spread.median:.2g} s ({spread.low:.2g} to {high})"


def percent(accuracy: float | None) -> str:
    return "none" if accuracy is None else f"{accuracy:.1%}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def in_short(comparisons: Sequence[Comparison]) -> list[str]:
    """A line for each straggler over all scenarios: who was fastest."""
    lines = []
    for title in dict.fromkeys(comparison.straggler.title for comparison in comparisons):
        told = [_fastest(one) for one in comparisons if one.straggler.title == title]
        lines.append(f"{title[0].upper()}{title[1:]}: {'; '.join(told)}.")
    return lines


def on_pace(comparisons: Sequence[Comparison]) -> str | None:
    """Where SSP settles beside a rank that is always slow, over all scenarios; None when that was not run."""
    told = []
    for comparison in comparisons:
        settled, ahead = _settled(comparison)
        bounded = [str(entry.system) for entry in comparison.entries if entry.system.bound is not None]
        at_pace = [name for name in settled if name in bounded]
        if at_pace or any(name in ahead for name in bounded):
            told.append(f"{comparison.scenario.title}: {listed(at_pace) if at_pace else 'no bound'}")
    if not told:
        return None
    return f"SSP settled at the pace of the rank that was always slow, as it must: {'; '.join(told)}."


@dataclass(frozen=True, slots=True)
class Cell:
    """Of the overview. `kind`: better, worse, alike, never or base."""

    text: str
    kind: str


def overview(comparisons: Sequence[Comparison]) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """The systems, and by scenario and straggler the time of each as a multiple of the baseline's."""
    systems = list(dict.fromkeys(entry.system for one in comparisons for entry in one.entries))
    rows = []
    for comparison in comparisons:
        found = [comparison.entry(system) for system in systems]
        cells = [_cell(comparison, entry) if entry else Cell("", "none") for entry in found]
        rows.append((f"{comparison.scenario.title}: {comparison.straggler.title}", cells))
    return [str(system) for system in systems], rows


def _cell(comparison: Comparison, entry: Entry) -> Cell:
    ours, theirs = entry.seconds_to_target.median, comparison.baseline.seconds_to_target.median
    if math.isinf(ours):
        return Cell("never", "never")
    text = seconds_of(ours)
    if entry is comparison.baseline:
        return Cell(text, "base")
    if math.isfinite(theirs):
        text = f"{text} · {ours / theirs:.2f}×"
    if comparison.faster(entry, comparison.baseline):
        return Cell(text, "better")
    return Cell(text, "worse" if comparison.faster(comparison.baseline, entry) else "alike")


def _fastest(comparison: Comparison) -> str:
    leaders, baseline = comparison.leaders, comparison.baseline
    where = comparison.scenario.title
    if not leaders:
        return f"{where}: nobody reached {comparison.scenario.target_accuracy:.0%}"
    if not comparison.has_spread:
        return f"{where}: one seed has no spread, so nothing is said"
    names = listed([str(entry.system) for entry in leaders])
    if len(leaders) == len(comparison.entries):
        return f"{where}: no difference beyond the spread"
    if baseline in leaders:
        return f"{where}: {names} {'is' if len(leaders) == 1 else 'are'} the fastest"
    fastest = comparison.fastest
    assert fastest is not None
    return f"{where}: {names}, {_against(fastest, baseline)}"


def _against(entry: Entry, baseline: Entry) -> str:
    """ "in 0.41 of DDP's time"; or that the baseline never got there."""
    theirs = baseline.seconds_to_target.median
    if math.isinf(theirs):
        return f"where {baseline.system} never got there"
    return f"in {entry.seconds_to_target.median / theirs:.2f} of {baseline.system}'s time"


def passages(comparisons: Sequence[Comparison]) -> list[Passage]:
    """Everything that can be said of one scenario, a passage for each straggler and one on SSP."""
    equal = next((one for one in comparisons if isinstance(one.straggler, Nobody)), None)
    told = [_passage(comparison, equal) for comparison in comparisons]
    bounds = [entry.system for one in comparisons for entry in one.entries if entry.system.bound is not None]
    return [*told, _on_ssp(comparisons)] if bounds else told


def _passage(comparison: Comparison, equal: Comparison | None) -> Passage:
    baseline = comparison.baseline
    target = f"{comparison.scenario.target_accuracy:.0%}"
    own = baseline.seconds_to_target
    if math.isinf(own.median):
        sentences = [f"{baseline.system} did not reach {target}; its best was {percent(baseline.best_accuracy)}."]
    else:
        sentences = [f"{baseline.system} reached {target} in {seconds(own)}{_slowdown(comparison, equal)}."]
    sentences += _groups(comparison)
    sentences += _pace(comparison)
    sentences += _waiting(comparison)
    return Passage(comparison.straggler.title, tuple(sentences))


def _slowdown(comparison: Comparison, equal: Comparison | None) -> str:
    """What this straggler costs the baseline, beside its time on equal machines."""
    before = equal.entry(comparison.baseline.system) if equal and equal is not comparison else None
    if before is None or math.isinf(before.seconds_to_target.median):
        return ""
    if not comparison.faster(before, comparison.baseline):
        return ", no longer than on equal machines beyond the spread"
    times = comparison.baseline.seconds_to_target.median / before.seconds_to_target.median
    return f", {times:.1f} times what it needs on equal machines"


def _groups(comparison: Comparison) -> list[str]:
    """Every other system is faster, slower, not to be told from the baseline, or never there."""
    baseline = comparison.baseline
    faster, slower, alike, never = [], [], [], []
    for entry in comparison.entries:
        if entry is baseline:
            continue
        ours, theirs = entry.seconds_to_target, baseline.seconds_to_target
        if math.isinf(ours.median):
            reached = f", one seed in {seconds_of(ours.low)}" if math.isfinite(ours.low) else ""
            never.append(f"{entry.system} (best {percent(entry.best_accuracy)}{reached})")
        elif comparison.faster(entry, baseline):
            saved = "" if math.isinf(theirs.median) else f", {1 - ours.median / theirs.median:.0%} less"
            faster.append(f"{entry.system} ({seconds(ours)}{saved})")
        elif comparison.faster(baseline, entry):
            slower.append(f"{entry.system} ({seconds(ours)}, {ours.median / theirs.median:.2f} times as long)")
        else:
            alike.append(f"{entry.system} ({seconds(ours)})")
    name = baseline.system
    return [
        f"{words} {listed(group)}."
        for words, group in (
            (f"Faster than {name} beyond the spread:", faster),
            (f"Slower than {name} beyond the spread:", slower),
            (f"No difference from {name} that is larger than the spread:", alike),
            ("Did not reach it in the time of the run:", never),
        )
        if group
    ]


def seconds_of(value: float) -> str:
    return f"{value:.2g} s"


def _settled(comparison: Comparison) -> tuple[list[str], dict[str, float]]:
    """Under a constant straggler: whose ranks all go at its pace, and how much faster the fastest goes under others."""
    settled: list[str] = []
    ahead: dict[str, float] = {}
    if isinstance(comparison.straggler, Constant):
        for entry in comparison.entries:
            lead = entry.lead
            if lead is None or entry.system in (DDP, SYNC):
                continue
            if lead.median <= SAME_PACE:
                settled.append(str(entry.system))
            else:
                ahead[str(entry.system)] = lead.median
    return settled, ahead


def _pace(comparison: Comparison) -> list[str]:
    settled, ahead = _settled(comparison)
    sentences = []
    if settled:
        sentences.append(
            f"In the second half of the run all ranks went at the slow rank's pace under {listed(settled)}: the lead"
            " that the bound allows is used up once, and then everybody waits."
        )
    if ahead:
        told = [f"{name} ({times:.1f} times)" for name, times in ahead.items()]
        sentences.append(f"The fastest rank made more iterations than the slow one under {listed(told)}.")
    return sentences


def _waiting(comparison: Comparison) -> list[str]:
    told = []
    for entry in comparison.entries:
        share = entry.spread(lambda one: one.waiting_share)
        if share is not None:
            told.append(f"{entry.system} {share.median:.0%}")
    return [f"Share of time spent waiting: {', '.join(told)}."] if told else []


def _on_ssp(comparisons: Sequence[Comparison]) -> Passage:
    """Where a bound is worth having, and where it is not: against sync and DDP, and against async."""
    wins, nothing, loses, beside_async = [], [], [], []
    names: dict[str, None] = {}
    for comparison in comparisons:
        bounded = [entry for entry in comparison.entries if entry.system.bound is not None]
        rivals = [entry for entry in (comparison.entry(SYNC), comparison.entry(DDP)) if entry is not None]
        if not bounded or not rivals:
            continue
        names |= dict.fromkeys(str(rival.system) for rival in rivals)
        ahead = [entry for entry in bounded if all(comparison.faster(entry, rival) for rival in rivals)]
        behind = [entry for entry in bounded if any(comparison.faster(rival, entry) for rival in rivals)]
        title = comparison.straggler.title
        if ahead:
            wins.append(f"{title} ({listed([str(entry.system) for entry in ahead])})")
            beside_async += _beside_async(comparison, ahead)
        elif len(behind) == len(bounded):
            loses.append(title)
        else:
            nothing.append(title)
    both = "both " if len(names) > 1 else ""
    sentences = [
        f"{words} {'; '.join(group)}."
        for words, group in (
            (f"A bound beats {both}{' and '.join(names)} beyond the spread under:", wins),
            ("It gains nothing that is larger than the spread under:", nothing),
            (f"Every bound is slower than {' or '.join(names)} under:", loses),
        )
        if group
    ]
    return Passage("Where SSP wins", tuple(sentences + _without_waiting(comparisons) + beside_async))


def _without_waiting(comparisons: Sequence[Comparison]) -> list[str]:
    """On equal machines there is hardly anybody to wait for: what a bound gains over sync there is something else."""
    for comparison in comparisons:
        sync = comparison.entry(SYNC)
        if sync is None or not isinstance(comparison.straggler, Nobody):
            continue
        bounded = [entry for entry in comparison.entries if entry.system.bound is not None]
        ahead = next((entry for entry in bounded if comparison.faster(entry, sync)), None)
        waits, steps = sync.spread(lambda one: one.waiting_share), sync.spread(lambda one: one.steps_per_second)
        theirs = ahead.spread(lambda one: one.steps_per_second) if ahead else None
        if waits and steps and theirs and steps.median:
            return [
                f"On equal machines it is not waiting that is saved, sync waits for {waits.median:.0%} of its time:"
                f" every update is a step, which makes {theirs.median / steps.median:.1f} times as many as under sync."
            ]
    return []


def _beside_async(comparison: Comparison, ahead: Sequence[Entry]) -> list[str]:
    free = comparison.entry(ASYNC)
    if free is None:
        return []
    title = comparison.straggler.title
    better = [str(entry.system) for entry in ahead if comparison.faster(entry, free)]
    if better:
        return [f"Under {title} {listed(better)} {'is' if len(better) == 1 else 'are'} faster than async, too."]
    if all(comparison.faster(free, entry) for entry in ahead):
        return [f"Under {title} async is faster still."]
    return [f"Under {title} it cannot be told from async."]
