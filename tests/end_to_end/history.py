"""Judges a run by the history that the server wrote (`ps-serve --history`), and by nothing else.

The one rule: nothing is believed because the server says so. Clocks, lags, and which update is in which version are
worked out here once more, from what came in and what was published.
"""

import json
from dataclasses import dataclass, field

from leeway.protocol.ranks import natural
from tests.replay import replay


class Violated(AssertionError):
    """A guarantee is broken; the text says which."""


def must(condition, guarantee, **facts):
    if not condition:
        raise Violated(f"{guarantee}: {', '.join(f'{name}={value}' for name, value in facts.items())}")


@dataclass
class Facts:
    """What happened. An update's name is (epoch, group, rank, incarnation, clock)."""

    epochs: list = field(default_factory=list)
    # By name: the version it went into, once that was published; and what its worker was told.
    applied: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    # Updates told `held` whose round had not been closed at the end of the record.
    held: set = field(default_factory=set)
    # Updates that were acknowledged and not in the checkpoint that a killed server went on from.
    lost: set = field(default_factory=set)
    # (t, rank, incarnation, reason) of every life that ended, (t, rank, incarnation) of every one that began.
    ended: list = field(default_factory=list)
    began: list = field(default_factory=list)
    # (t, rank, clock, lag, version) of every answered pull of a worker.
    granted: list = field(default_factory=list)
    staleness: list = field(default_factory=list)
    modes: list = field(default_factory=list)
    finished: bool = False

    @property
    def largest_lag(self):
        return max(lag for _, _, _, lag, _ in self.granted)


@dataclass
class Group:
    """Of a server process, what is known of one group. Clocks, grants and the like are by rank, of the live ones."""

    mode: str
    bound: int | None
    published: int
    min_clock: int
    round: int
    switching_at: int | None = None
    clocks: dict = field(default_factory=dict)
    grants: dict = field(default_factory=dict)
    owed: dict = field(default_factory=dict)
    seen: dict = field(default_factory=dict)
    missing: set = field(default_factory=set)
    held: dict = field(default_factory=dict)
    open: bool = False
    # Decided and not published: by version, the updates in it.
    in_flight: dict = field(default_factory=dict)

    @property
    def decided(self):
        return max(self.in_flight, default=self.published)

    def moved(self):
        self.min_clock = max(self.min_clock, min(self.clocks.values(), default=self.min_clock))


def read(path):
    """The rows of a history; a last line that a killed server did not finish is left out."""
    lines = path.read_text().splitlines()
    rows = []
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            must(following is None or '"is":"Started"' in following, "only a killed server breaks off", line=line)
    return rows


def judge(rows):
    """As `check`, of a whole record; and a machine that takes its events once more decides the same."""
    replay(rows)
    return check(rows)


def check(rows):
    """Check exactly once, the bound, versions, and read-my-writes. Returns `Facts`, raises `Violated`."""
    checker = Checker()
    for row in rows:
        if row.get("is") == "Started":
            checker.start(row)
        else:
            checker.event(row["t"], row["event"], row["effects"])
    return checker.end()


class Checker:
    def __init__(self):
        self.facts = Facts()
        self.groups = {}
        # By name: what became of an update, as it follows from the events.
        self.disposed = {}

    # Starts and ends of server processes.

    def start(self, row):
        epoch, state = row["epoch"], row["state"]
        must(not self.facts.epochs or epoch >= self.facts.epochs[-1], "epochs never go back", epoch=epoch)
        goes_on = epoch in self.facts.epochs
        known = {name: self._state(group) for name, group in self.groups.items()}
        if not goes_on:
            self.facts.epochs.append(epoch)
        self.epoch = epoch
        self.messages, self.bodies = {}, {}
        self.live = {}
        for rank, saved in state["ranks"].items():
            if saved["lives"] and saved["lives"][-1]["ended"] is None:
                self.live[rank] = saved["lives"][-1]["number"]
        self.groups = {name: self._restored(name, saved, state["ranks"]) for name, saved in state["groups"].items()}
        if goes_on:
            told = {name: self._state(group) for name, group in self.groups.items()}
            must(told == known, "a clean start goes on from the state of the stop", told=told, known=known)
        elif known:
            in_state = {name[2:]: name for group in self.groups.values() for name in group.held.values()}
            versions = {name: group.published for name, group in self.groups.items()}
            for name, disposition in self.facts.told.items():
                applied = self.facts.applied.get(name)
                safe = name[2:] in in_state if applied is None else applied <= versions[name[1]]
                if name[0] != epoch and disposition != "skipped" and not safe:
                    self.facts.lost.add(name)

    def _restored(self, group_name, saved, ranks):
        mode = "switching" if saved["switching_at"] is not None else saved["mode"]
        group = Group(mode, saved["staleness"], saved["version"], saved["min_clock"], saved["round"])
        group.switching_at = saved["switching_at"]
        group.missing, group.open = set(saved["missing"] or ()), saved["missing"] is not None
        for rank, number in self.live.items():
            life = next(life for life in ranks[rank]["lives"] if life["number"] == number)
            if progress := life["groups"].get(group_name):
                group.clocks[rank] = progress["clock"]
                group.grants[rank] = {tuple(grant) for grant in progress["grants"]}
                group.owed[rank] = progress["owed"]
                if record := progress["record"]:
                    name = (self.epoch, group_name, rank, number, record["clock"])
                    self.disposed[name] = record["disposition"]
        for rank, one in saved["held"].items():
            if one["samples"]:
                numbers = [life["number"] for life in ranks[rank]["lives"] if _held(life, group_name, group.round)]
                name = group.held[rank] = (self.epoch, group_name, rank, numbers[-1], group.round)
                for place in one["bodies"]:
                    # Saved bodies are known under the first numbers.
                    self.bodies[place + 1] = (name, one["samples"], None)
        return group

    @staticmethod
    def _state(group):
        """What has to be the same behind a clean stop."""
        held = {rank: name[3:] for rank, name in group.held.items()}
        return group.published, group.min_clock, group.clocks, held

    def end(self):
        for group in self.groups.values():
            must(group.open or not group.held, "a closed round leaves nothing behind", held=group.held)
            self.facts.held |= set(group.held.values())
        # Of what a killed server did not save, and the updates in hand anew, the last word is the last epoch's.
        for name, disposition in self.facts.told.items():
            if disposition in ("applied", "held") and name[0] == self.epoch and name not in self.facts.held:
                known = name in self.facts.applied or name in self.facts.lost
                must(known, "an acknowledged update is in a published version", name=name)
        return self.facts

    # Events.

    def event(self, t, event, effects):
        self.t = t
        # A switch away from sync closes the open round with what there is.
        self.switching = event["is"] == "Asked" and event["message"]["is"] == "SetPolicy"
        match event["is"]:
            case "Asked":
                message = self.messages[event["request"]] = event["message"]
                if message["is"] == "Push":
                    self._pushed(event["request"], message, effects)
            case "Published" | "Failed":
                self._published(self.groups[event["group"]], event["number"])
        for effect in effects:
            self._effect(effect)
        for effect in effects:
            if effect["is"] == "Answered":
                self._answered(effect["request"], effect["reply"])

    def _name(self, push):
        life = push["life"]
        return (life["epoch"], push["group"], life["rank"], life["incarnation"], push["clock"])

    def _pushed(self, request, push, effects):
        """A push that is not effective on arrival is taken at once, though its worker may be told much later."""
        name, group = self._name(push), self.groups[push["group"]]
        self.bodies[request] = (name, push["samples"], push)
        answers = {effect["request"]: effect["reply"] for effect in effects if effect["is"] == "Answered"}
        refused = answers.get(request, {}).get("is") == "Refused"
        dropped = any(request in effect["bodies"] for effect in effects if effect["is"] == "Drop")
        applying = any(name == one for updates in group.in_flight.values() for one, _ in updates)
        fresh = self.live.get(name[2]) == name[3] and group.clocks.get(name[2]) == name[4] and not applying
        if refused or not fresh:
            return
        if push["kind"] == "skip":
            self._taken(group, name, push, "skipped")
        elif group.mode == "sync" and not dropped and self._parts(name) == push["parts"]:
            self._taken(group, name, push, "held")
            group.held[name[2]] = name

    def _parts(self, name):
        return sum(one[0] == name for one in self.bodies.values())

    def _taken(self, group, name, push, disposition):
        self._accepted(group, push)
        if group.mode == "sync":
            must(name[2] in group.missing, "a contribution is a member's", name=name)
            group.missing.remove(name[2])
        self.disposed[name] = disposition
        self._advance(group, name)

    def _published(self, group, number):
        must(number == group.published + 1, "versions come out in their order", number=number, after=group.published)
        group.published = number
        for name, on_arrival in group.in_flight.pop(number):
            self.facts.applied[name] = number
            if on_arrival:
                self.disposed[name] = "applied"
                self._advance(group, name)

    def _advance(self, group, name):
        _, _, rank, incarnation, clock = name
        if self.live.get(rank) == incarnation:
            must(group.clocks[rank] == clock, "the iteration pushed is that of the clock", name=name)
            group.clocks[rank] = clock + 1
            group.grants[rank] = set()
            group.moved()

    def _effect(self, effect):
        match effect["is"]:
            case "Began":
                must(effect["rank"] not in self.live, "a rank has one life", rank=effect["rank"])
                self.live[effect["rank"]] = effect["incarnation"]
                self.facts.began.append((self.t, effect["rank"], effect["incarnation"]))
            case "Ended":
                rank = effect["rank"]
                must(self.live.pop(rank, None) == effect["incarnation"], "only a live one ends", rank=rank)
                self.facts.ended.append((self.t, rank, effect["incarnation"], effect["reason"]))
                for group in self.groups.values():
                    for known in (group.clocks, group.grants, group.owed, group.seen):
                        known.pop(rank, None)
                    group.missing.discard(rank)
                    group.moved()
            case "RoundOpened":
                group = self.groups[effect["group"]]
                group.round, group.missing = effect["number"], set(effect["members"])
                group.open = True
                must(group.missing == set(group.clocks), "all that are live are in the round", round=group.round)
                must(not group.held, "nothing is left of the round before", held=group.held)
            case "RoundClosed":
                group = self.groups[effect["group"]]
                must(not group.missing or self.switching, "a round closes when nobody is missing", **effect)
                group.missing, group.open = set(), False
                must(set(effect["contributors"]) == set(group.held), "all that is held is in the step", **effect)
                if effect["needed"] is not None:
                    must(len(group.held) < effect["needed"], "only too few make no step", **effect)
                    group.held.clear()
            case "Initialize" | "Adopt":
                group = self.groups[effect["group"]]
                must(effect["number"] == group.decided + 1, "versions grow by one", number=effect["number"])
                group.in_flight[effect["number"]] = []
            case "Apply":
                self._apply(self.groups[effect["group"]], effect)
            case "Drop":
                for body in effect["bodies"]:
                    self.bodies.pop(body, None)
            case "Switched":
                group = self.groups[effect["group"]]
                group.mode, group.bound, group.switching_at = effect["mode"], effect["staleness"], None
                self.facts.modes.append(effect["mode"])
            case "Finished":
                self.facts.finished = True
            case "Answered":
                self._told(effect["request"], effect["reply"])

    def _apply(self, group, effect):
        number = effect["number"]
        must(number == group.decided + 1, "versions grow by one", number=number, after=group.decided)
        group.in_flight[number] = []
        for contribution in effect["contributions"]:
            found = [self.bodies.pop(body, None) for body in contribution["bodies"]]
            must(None not in found, "what is applied was pushed, and once", version=number, **contribution)
            (name,) = {one[0] for one in found}
            must(name[2] == contribution["rank"], "an update is its own rank's", name=name)
            must({one[1] for one in found} == {contribution["samples"]}, "the weight is what was pushed", name=name)
            twice = name in self.facts.applied or any(
                name == other for updates in group.in_flight.values() for other, _ in updates
            )
            must(not twice, "an update is applied once", name=name)
            group.in_flight[number].append((name, not effect["aggregated"]))
            if effect["aggregated"]:
                must(group.held.pop(name[2], None) == name, "a step is made of what is held", name=name)
                must(not group.open, "a step is made when its round is closed", name=name)
            else:
                push = found[0][2]
                self._accepted(group, push)
                staleness = number - push["version"] - 1
                must(effect["staleness"] == staleness, "staleness is counted in versions", name=name)
                self.facts.staleness.append(staleness)
            if self.live.get(name[2]) == name[3]:
                group.owed[name[2]] = number
        order = [contribution["rank"] for contribution in effect["contributions"]]
        must(order == sorted(order, key=natural), "a step adds up in the order of the ranks", order=order)

    def _accepted(self, group, push):
        rank = push["life"]["rank"]
        must(self.live.get(rank) == push["life"]["incarnation"], "only a live one's push is taken", push=push)
        granted = group.grants.get(rank, set())
        must((push["version"], push["round"]) in granted, "a push follows its granted pull", push=push)

    # Replies.

    def _told(self, request, reply):
        """The bookkeeping of a reply; whether a grant in it was right is judged when all of the event is known."""
        pushed = reply["pushed"] if reply["is"] == "PushPulled" else reply
        message = self.messages.get(request)
        match pushed["is"]:
            case "Pushed":
                self._disposed(message, pushed["disposition"])
            case "Joined":
                for name, state in pushed["groups"].items():
                    group = self.groups[name]
                    clock = group.clocks.setdefault(message["rank"], state["clock"])
                    must(clock == state["clock"], "a life goes on at its clock", rank=message["rank"])
                    if not pushed["resumed"] and group.mode in ("async", "ssp"):
                        must(clock == group.min_clock, "a joiner starts at the min clock", rank=message["rank"])
                    group.moved()
            case "PolicyState" if message["is"] == "SetPolicy" and pushed["switching_at"] is not None:
                group = self.groups[pushed["group"]]
                group.mode, group.bound, group.switching_at = "switching", None, pushed["switching_at"]

    def _disposed(self, push, disposition):
        # A server that goes on from a checkpoint has the push under its own epoch, whatever the repeat names.
        name = (self.epoch, *self._name(push)[1:])
        must(
            self.disposed.get(name) == disposition,
            "what is told is what was done, whenever",
            name=name,
            told=disposition,
        )
        self.facts.told[name] = disposition

    def _answered(self, request, reply):
        message = self.messages.pop(request, None)
        granted = reply["pulled"] if reply["is"] == "PushPulled" else reply
        if granted["is"] != "Granted":
            return
        group = self.groups[message["group"]]
        epoch, number = (int(part) for part in granted["version"].split("."))
        told = {"request": message, "granted": granted}
        must((epoch, number) == (self.epoch, group.published), "a pull gets the newest version", **told)
        if message["life"] is None:
            return
        rank = message["life"]["rank"]
        must(self.live.get(rank) == message["life"]["incarnation"], "only a live one is granted", **told)
        clock = message["clock"] + (reply["is"] == "PushPulled")
        must(clock == granted["clock"] == group.clocks[rank], "a pull is of the clock's iteration", **told)
        lag = clock - group.min_clock
        must(granted["lag"] == lag, "the lag is clock minus min clock", lag=lag, **told)
        if group.mode == "ssp":
            must(lag <= group.bound, "no pull is answered beyond the bound", lag=lag, bound=group.bound, **told)
        if group.mode == "sync":
            must(granted["round"] == group.round and rank in group.missing, "a pull is a member's", **told)
        if group.mode == "switching":
            must(clock < group.switching_at, "nobody passes the clock of the switch", **told)
        must(number >= group.owed.get(rank, 0), "a worker reads its own writes", owed=group.owed.get(rank), **told)
        must(number >= group.seen.get(rank, 0), "versions never go back", seen=group.seen.get(rank), **told)
        group.seen[rank] = number
        group.grants.setdefault(rank, set()).add((number, granted["round"]))
        self.facts.granted.append((self.t, rank, clock, lag, number))


def _held(life, group, round_number):
    record = life["groups"].get(group, {}).get("record")
    return record and record["clock"] == round_number and record["disposition"] == "held"
