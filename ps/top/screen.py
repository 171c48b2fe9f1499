"""What is shown of a run, as lines of text: head, a lane for each worker, staleness, loss, decisions.

The one rule: it is a function of what is known, the room there is and the time. A line is never wider than the room.
The lanes have it first: with more workers than lines there is nothing else below the head, and those who are waited for
and those who wait come first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from leeway.ps.top.bars import bar, columns, spark
from leeway.ps.top.words import count, doing, duration, missing, number, plain, quarantine, rate, short_name, stages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leeway.ps.top.watched import Watched

# Below this nothing fits beside each other; a narrower terminal cuts the lines off.
_LEAST_WIDTH = 40

_BAR_CELLS = 12

# Where nothing bounds the lag, a full bar is no less than this: one iteration ahead is nothing to see from afar.
_LEAST_LAG = 4
_RANK_CELLS = 14
_DECISIONS = 6
_FORMING = 4

# The words say what a lane is about: below these widths the columns that are dearest give way to them.
_WIDE_FOR_BAR, _WIDE_FOR_LOSS, _WIDE_FOR_WAITED = 76, 60, 50

_HELP = (
    ("q", "ends the watching, not the run; so does Ctrl-C"),
    ("?", "this page, and back"),
    ("", ""),
    ("clock", "the iteration that the worker is in"),
    ("lag", "iterations ahead of the slowest; the bar too"),
    ("\u2502", "the bound of ssp: beyond it one has to wait"),
    ("waited", "share of the last 30 s that it has waited"),
    ("loss", "what the worker reported last"),
    ("idle", "on its way: between an answer and a question"),
    ("stages", "share of an iteration that each computed; the rest it waits"),
    ("step", "makes a version of the model"),
    ("update", "what one worker pushes; under sync a step takes all"),
    ("staleness", "versions made between an update's pull and its step"),
)

# Besides the words, which say the same: nothing here is told by a color alone.
_WAITS, _AWAITED, _COMPUTES = "yellow", "bold red", "green"
_DATA, _FAINT, _STRONG, _ALARM = "cyan", "dim", "bold", "bold red"


def render(watched: Watched, width: int, height: int | None, now: float, *, keys: bool = False) -> Text:
    """At most `height` lines (None: as many as there are) of `width` cells.

    `now`: seconds since 1970. `keys`: there is somebody who can press them.
    """
    width = max(width, _LEAST_WIDTH)
    if watched.status is None:
        lines = [Text(f"{watched.url}: {watched.lost_because or 'nothing has come yet'}")]
    else:
        lines = _lines(watched, width, height, now, keys)
    return _fitted(lines, width, height)


def render_help(width: int, height: int) -> Text:
    """What the keys do and what the words mean."""
    lines = [Text("ps-top: q ends, ? goes back", style=_STRONG), Text()]
    lines += [Text.assemble((f"{word:<10}", _DATA), meaning) for word, meaning in _HELP]
    return _fitted(lines, max(width, _LEAST_WIDTH), height)


def _fitted(lines: list[Text], width: int, height: int | None) -> Text:
    for line in lines[:height]:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines[:height])


def _lines(watched: Watched, width: int, height: int | None, now: float, keys: bool) -> list[Text]:
    head = list(_head(watched, width, now, keys))
    loss, staleness, decisions = list(_loss(watched, width)), list(_staleness(watched)), list(_decisions(watched))
    # A replica has a second line, for its stages.
    workers = sum(2 if "stages" in worker else 1 for worker, _ in watched.workers())
    workers += len(_forming(watched))
    if height is not None and workers > height - len(head) - 2:
        return [*head, *_lanes(watched, width, max(1, height - len(head) - 1))]
    below: list[Text] = []
    room = None if height is None else height - len(head) - 2 - max(1, workers)
    # The first of them stay the longest. Of the decisions a few are as good as all.
    for section in (loss, staleness, decisions):
        if section and room is not None:
            section = section[: room - 1] if section is decisions and room >= 3 else section
            if len(section) >= room:
                continue
            room -= len(section) + 1
        below += [Text(), *section] if section else []
    return [*head, Text(), *_lanes(watched, width, None), *below]


# The head.


def _head(watched: Watched, width: int, now: float, keys: bool) -> Iterator[Text]:
    status, group = watched.status or {}, watched.group
    version = status.get("program", {}).get("version", "")
    named = f"  group {watched.group_name}" if len(status["groups"]) > 1 else ""
    yield _apart(
        Text.assemble((f"leeway {version}".strip(), _STRONG), f"  {watched.url}{named}"),
        Text(f"up {duration(status['uptime_seconds'])}{'  ? help' if keys else ''}"),
        width,
    )
    rates = watched.rates()
    policy = _policy(group["policy"], group.get("aggregation", "mean"))
    speed = [f"{rate(rates[0])} steps/s", f"{rate(rates[1])} updates/s"] if rates else []
    facts = [policy, f"version {group['version']}", epoch := f"epoch {status['epoch']}", *speed]
    for least in (epoch, *reversed(speed)):
        if cell_len("  ".join(facts)) > width:
            facts.remove(least)
    yield Text("  ".join(facts))
    if status.get("insecure"):
        yield Text("insecure: whoever reaches this server owns the model (--insecure)", style=_ALARM)
    if watched.lost_since is not None:
        yield _lost(watched, now)
    elif status["stopping"] or status["finished"]:
        why = f": {status['over']}" if status.get("over") else ""
        yield Text(f"the run is finished{why}" if status["finished"] else "the server is stopping", style=_STRONG)
    else:
        yield _summary(watched)


def _lost(watched: Watched, now: float) -> Text:
    assert watched.lost_since is not None
    assert watched.status is not None
    since = time.strftime("%H:%M:%S", time.localtime(watched.lost_since))
    if watched.status["stopping"] or watched.status["finished"]:
        finished = "the run is finished; " if watched.status["finished"] else ""
        return Text(f"{finished}the server stopped at {since}", style=_STRONG)
    ago = duration(max(0.0, now - watched.lost_since))
    return Text(f"the server does not answer since {since} ({ago}): {watched.lost_because}", style=_ALARM)


def _policy(policy: dict[str, Any], aggregation: str) -> str:
    """The mode with what it is bounded by, and what is made of a round's updates if that is not their mean."""
    grace = policy.get("grace_seconds")
    if policy.get("quorum") is not None:
        bound = f" (quorum {policy['quorum']}, grace {'auto' if grace is None else f'{grace:g} s'})"
    else:
        bound = f" (bound {policy['staleness']})" if policy.get("staleness") is not None else ""
    if policy["mode"] == "sync" and aggregation != "mean":
        bound += f"  {aggregation}"
    change = "" if policy.get("switching_at") is None else ", a switch is under way"
    return f"{policy['mode']}{bound}{change}"


def _summary(watched: Watched) -> Text:
    """How many there are and who holds up how many."""
    states = [progress["state"] for _, progress in watched.workers()]
    waiting = states.count("waiting")
    status = watched.status or {}
    # A state has room for many workers, not for all of a very large run.
    untold = status.get("live_workers", 0) - len(status["workers"])
    more = f" ({untold} more not shown)" if untold > 0 else ""
    text = Text()
    if rounds := watched.group.get("rounds_since_step"):
        which = "the last round" if rounds == 1 else f"the last {count(rounds, 6)} rounds"
        text.append(f"{which} made no step: too few updates", style=_ALARM).append("; ")
    text.append(f"{len(states)} worker{'' if len(states) == 1 else 's'}{more}, {waiting or 'none'} waiting")
    awaited = sorted(watched.awaited().items(), key=lambda waited: -waited[1])
    if awaited:
        text.append(" for ").append(", ".join(short_name(rank) for rank, _ in awaited), style=_AWAITED)
    if kept_out := status.get("quarantined"):
        text.append(f"; {quarantine(status['quarantine'], kept_out)}", style=_WAITS)
    if watched.group.get("readers_waiting"):
        text.append(f"; {watched.group['readers_waiting']} readers wait")
    return text


# The lanes.


def _lanes(watched: Watched, width: int, fits: int | None) -> Iterator[Text]:
    """The lanes' head, and at most `fits` lines of lanes."""
    workers, awaited = list(watched.workers()), watched.awaited()
    forming = _forming(watched)
    for replica in forming:
        yield Text(missing(replica), style=_WAITS)
    if fits is not None:
        fits = max(1, fits - len(forming))
    with_stages = fits is None or len(workers) + sum("stages" in worker for worker, _ in workers) <= fits
    if not workers:
        yield Text("no worker is here", style=_FAINT)
        return
    shown, rest = workers, []
    if fits is not None and len(workers) > fits:
        # Sorting is stable: within a class they stay in the order of their ranks.
        urgent = sorted(workers, key=lambda row: _urgency(row[0]["rank"], row[1], awaited))
        shown, rest = urgent[: fits - 1], urgent[fits - 1 :]
    longest = max((cell_len(worker["rank"]) for worker, _ in shown), default=0)
    form = _Form(min(max(longest, len("worker")), _RANK_CELLS), width)
    bound = watched.group["policy"].get("staleness")
    # One who waits under ssp is one beyond the bound.
    least = _LEAST_LAG if bound is None else bound + 1
    scale = max([least, *(progress["lag"] for _, progress in workers)])
    yield Text(form.line("worker", "clock", "lag", "", "waited", "loss", "what it does"), style=_FAINT)
    for worker, progress in shown:
        yield _lane(watched, worker, progress, form, scale, bound, awaited)
        if "stages" in worker and with_stages:
            yield Text(" " * (form.ranks + 1) + stages(worker), style=_FAINT)
    if rest:
        yield Text(f"... and {len(rest)} more: {_tally(rest)}", style=_FAINT)


def _forming(watched: Watched) -> Sequence[dict[str, Any]]:
    """Replicas that wait for stages: a few of them."""
    replicas: Sequence[dict[str, Any]] = (watched.status or {}).get("forming", ())[:_FORMING]
    return replicas


@dataclass(frozen=True, slots=True)
class _Form:
    """Which columns a lane has in this width, and how wide the first one is."""

    ranks: int
    width: int

    def line(self, rank: str, clock: str, lag: str, drawn: str, waited: str, loss: str, words: str) -> str:
        return f"{self.before(rank, clock, lag)}{self.bar(drawn)}{self.after(waited, loss)}  {words}"

    def before(self, rank: str, clock: str, lag: str) -> str:
        return f"{set_cell_size(rank, self.ranks)} {clock:>7} {lag:>4}"

    def bar(self, drawn: str) -> str:
        return f" {drawn:{_BAR_CELLS}}" if self.width >= _WIDE_FOR_BAR else ""

    def after(self, waited: str, loss: str) -> str:
        columns = (waited, 6, _WIDE_FOR_WAITED), (loss, 8, _WIDE_FOR_LOSS)
        return "".join(f" {text:>{cells}}" for text, cells, least in columns if self.width >= least)


def _urgency(rank: str, progress: dict[str, Any], awaited: dict[str, int]) -> int:
    return 0 if rank in awaited else 1 if progress["state"] == "waiting" else 2


def _lane(
    watched: Watched,
    worker: dict[str, Any],
    progress: dict[str, Any],
    form: _Form,
    scale: int,
    bound: int | None,
    awaited: dict[str, int],
) -> Text:
    rank, lag, state = worker["rank"], progress["lag"], progress["state"]
    share = watched.share_waiting(rank, worker["incarnation"])
    reported = worker.get("reported", {})
    loss = number(reported["loss"]) if "loss" in reported else ""
    style = _AWAITED if rank in awaited else _WAITS if state == "waiting" else _COMPUTES if state == "computing" else ""
    line = Text(form.before(short_name(rank, form.ranks), count(progress["clock"], 7), count(lag, 4)))
    line.append(form.bar(bar(lag, scale, _BAR_CELLS, bound)), style=style)
    line.append(form.after("" if share is None else f"{share:.0%}", loss)).append("  ")
    words = doing(progress, bound)
    if rank in awaited:
        waiting = awaited[rank]
        words = f"{'WAITED FOR' if waiting == 1 else f'WAITED FOR by {waiting}'}, {words}"
    return line.append(words, style=style)


def _tally(workers: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    counts: dict[str, int] = {}
    for _, progress in workers:
        counts[progress["state"]] = counts.get(progress["state"], 0) + 1
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))


# What stands below.


def _staleness(watched: Watched) -> Iterator[Text]:
    """The distribution of the updates' staleness since the server's start."""
    staleness = watched.group.get("staleness")
    if not staleness or not sum(staleness["counts"]):
        return
    bounds, counts, total = staleness["bounds"], staleness["counts"], sum(staleness["counts"])
    labels = [f"{bound:g}" for bound in bounds] + [f">{bounds[-1]:g}"]
    used = 1 + max(place for place, count in enumerate(counts) if count)
    shares = [f"{count / total:.0%}" if count >= 0.005 * total else "<1%" if count else "" for count in counts]
    drawn = "".join(f"{3 * column:>5}" for column in columns(counts[:used]))
    yield Text.assemble(("staleness ", _FAINT), (drawn, _DATA))
    yield Text("versions  " + "".join(f"{label:>5}" for label in labels[:used]), style=_FAINT)
    yield Text("          " + "".join(f"{share:>5}" for share in shares[:used]))


def _loss(watched: Watched, width: int) -> Iterator[Text]:
    losses = watched.losses()
    if len(losses) < 2:
        return
    first, last = number(losses[0][1]), number(losses[-1][1])
    span = f" over {duration(losses[-1][0] - losses[0][0])}"
    room = width - len("loss ") - len(first) - len(last) - len(span) - 2
    line = spark([loss for _, loss in losses], max(8, room))
    yield Text.assemble(("loss ", _FAINT), f"{first} ", (line, _DATA), f" {last}", (span, _FAINT))


def _decisions(watched: Watched) -> Iterator[Text]:
    """The newest first. They are those of all groups: where there are several, each names its own."""
    several = len((watched.status or {})["groups"]) > 1
    if watched.decisions:
        yield Text("decisions", style=_FAINT)
    for decision in list(watched.decisions)[: -_DECISIONS - 1 : -1]:
        at = time.strftime("%H:%M:%S", time.localtime(decision["time"]))
        rank, group = decision.get("rank"), decision.get("group") if several else None
        who = " in ".join(short_name(name) for name in (rank, group) if name)
        who = who and f"{who}: "
        words = plain(" ".join(str(decision.get("detail") or decision.get("reason") or "").split()))
        yield Text.assemble((f"{at} ", _FAINT), f"{decision['kind']:<11} {who}{words}")


def _apart(left: Text, right: Text, width: int) -> Text:
    """Two ends of one line; the right one gives way."""
    gap = width - left.cell_len - right.cell_len
    return left.append(" " * gap).append_text(right) if gap >= 2 else left
