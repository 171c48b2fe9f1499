"""Judges a run by its history, the rows that `ps-serve --history` writes, and by nothing else: the runs of real
servers, of the simulation and of the properties alike.

The one rule: nothing is believed because the server says so. Clocks, lags, who is late, when a round may close, and
which update is in which version are worked out here once more, from what came in and what was published.
"""

import json

from leeway.protocol.ranks import DEFAULT_GROUP, natural
from tests.known import ROUNDING_SECONDS, Group, Violated, left_waiting, must
from tests.replay import replay
from tests.seats import is_whole
from tests.starts import Starts, settings_of

__all__ = ["Checker", "Violated", "check", "judge", "read"]


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
        checker.take(row)
    return checker.end()


class Checker(Starts):
    @property
    def stopped(self):
        return any(group.stopped for group in self.groups.values())

    def take(self, row):
        if row.get("is") == "Started":
            self.start(row)
        else:
            self.event(row["t"], row["event"], row["effects"])

    def end(self):
        for group in self.groups.values():
            must(group.open or not group.held, "a closed round leaves nothing behind", held=group.held)
            self.facts.held |= set(group.held.values())
        # Of what a killed server did not save, and the updates in hand anew, the last word is the last epoch's.
        for name, disposition in self.facts.told.items():
            if disposition in ("applied", "held") and name[0] == self.epoch:
                facts = self.facts
                known = any(
                    name in names for names in (facts.applied, facts.held, facts.lost, facts.unmade, facts.saved)
                )
                must(known, "an acknowledged update is in a published version", name=name)
        return self.facts

    # Events.

    def event(self, t, event, effects):
        self.t = t
        # A switch away from sync closes the open round with what there is.
        asked = event["message"] if event["is"] == "Asked" else {"is": None}
        taken = any(effect["is"] == "Answered" and effect["reply"]["is"] == "PolicyState" for effect in effects)
        self.switching = taken and asked["is"] == "SetPolicy" and asked["mode"] != "sync"
        match event["is"]:
            case "Asked":
                message = self.messages[event["request"]] = event["message"]
                if message["is"] == "Push":
                    self._pushed(event["request"], message, effects)
                    self._measured(message, event.get("norm"), effects)
                elif message["is"] == "Join" and message["place"]:
                    # Who has waited, be it for this one event, had its place.
                    first = next(one for one in effects if one.get("request") == event["request"])
                    refused = first["is"] == "Answered" and first["reply"]["is"] == "Refused"
                    self.seats.is_asked(message, refused=refused)
                elif message["is"] == "Leave":
                    self.seats.is_left(message["life"])
            case "Published" | "Failed":
                self._published(self.groups[event["group"]], event["number"], failed=event["is"] == "Failed")
            case "Gone":
                self.messages.pop(event["request"], None)
                self._waits_no_more(event["request"])
            case "Stop":
                for group in self.groups.values():
                    group.stopped = True
            case "Paused":
                for group in self.groups.values():
                    group.arrivals = [min(at + event["seconds"], t) for at in group.arrivals]
        for effect in effects:
            frozen = self.stopped and effect["is"] in ("RoundOpened", "RoundClosed", "Began", "Ended", "Switched")
            must(not frozen, "behind the stop nothing is decided any more", **effect)
            self._effect(effect)
        for group in self.groups.values():
            over = group.deadline is not None and group.deadline + ROUNDING_SECONDS < t
            must(not over, "a round closes when its quorum is there and its grace over", round=group.round)
            self._are_pinned(group)
        must(self.kept_out.isdisjoint(self.live), "who is in quarantine has no life", kept_out=self.kept_out)
        self.seats.joining = None
        self._no_circle_is_left()
        self._come_to_the_end()

    def _are_pinned(self, group):
        """What a replica was granted is kept for its other stages. A start has the newest version alone."""
        granted = {number for rank in self.seats.live for number, _ in group.grants.get(rank, ())}
        kept = tuple(sorted(granted & {group.published, *group.pinned}))
        must(group.pinned == kept, "what replicas were granted is kept, and nothing else", true=kept, told=group.pinned)

    def _no_circle_is_left(self):
        left = self._left_waiting()
        must(not left, "no circle of waiters is left", waiting=left)

    def _left_waiting(self):
        return left_waiting(self.groups.values(), self.one_after_another) if len(self.groups) > 1 else set()

    def _come_to_the_end(self):
        """Where a group has no end of its own, it has come with the others'."""
        if self._end_has_come():
            for group in self.groups.values():
                if group.until is None and not group.over:
                    group.come_to_the_end()

    @property
    def is_over(self):
        """Whether the run has come to its end, in every group that anybody is in."""
        return self._end_has_come() and all(group.done or group.deserted for group in self.groups.values())

    def _end_has_come(self):
        """Every group with an end that anybody is in has come to it, and one at least has."""
        if self.over:
            return True
        ending = [group for group in self.groups.values() if group.until is not None and group.arrived]
        return any(group.done for group in ending) and all(group.done or group.deserted for group in ending)

    def _waits_no_more(self, request):
        for group in self.groups.values():
            group.waits_no_more(request)

    def _name(self, push):
        life = push["life"]
        return (life["epoch"], push["group"], life["rank"], life["incarnation"], push["clock"])

    def _pushed(self, request, push, effects):
        """A push that is not effective on arrival is taken at once, though its worker may be told much later."""
        name, group = self._name(push), self.groups.get(push["group"])
        self.bodies[request] = (name, push["samples"], push)
        refused = _answers(effects).get(request, {}).get("is") in ("Refused", "Staged")
        must(refused or group, "a push is to a group that is there", name=name)
        if group is None:
            return
        dropped = any(request in effect["bodies"] for effect in effects if effect["is"] == "Drop")
        applying = any(name == one for updates in group.in_flight.values() for one, _ in updates)
        live = self.live.get(name[2]) == name[3] and name[2] in group.clocks
        passed = live and group.has_passed(name[2], name[4])
        fresh = live and (passed or group.clocks[name[2]] == name[4]) and not applying
        waits = any(_waits_for_parts(effect) and effect["request"] == request for effect in effects)
        if refused or waits or not fresh:
            return
        if passed or (group.mode == "sync" and name[2] not in group.missing):
            must(dropped, "a late update is dropped", name=name)
            self._late(group, name, push, passed=passed)
        elif push["kind"] == "skip":
            self._taken(group, name, push, "skipped")
        elif group.mode == "sync" and self._parts(name) == push["parts"]:
            self._taken(group, name, push, "held")
            group.held[name[2]] = name

    def _measured(self, push, norm, effects):
        """What is too large is in no step, whatever else is decided about it."""
        most = settings_of(push["group"], self.settings).get("max_update_norm")
        if norm is not None and most is not None and norm > most:
            taken = [effect for effect in effects if effect["is"] == "Accepted" and effect["disposition"] != "late"]
            must(not taken, "no update beyond the limit of its norm is taken", norm=norm, most=most)

    def _late(self, group, name, push, *, passed):
        """Its round has closed without it: its worker goes on with the next to open, or is there already."""
        to = group.clocks[name[2]] if passed else group.next
        self._counted(group, name[2])
        if passed:
            del group.passed[name[2]]
            group.last[name[2]] = name
        else:
            self._accepted(group, push)
            self._advance(group, name, to)
        self.disposed[name] = ("late", None, None, to)

    def _parts(self, name):
        return sum(one[0] == name for one in self.bodies.values())

    @staticmethod
    def _counted(group, rank):
        """One more update of this rank is accepted: the next is of the next batch."""
        group.committed[rank] = group.committed.get(rank, 0) + 1

    def _taken(self, group, name, push, disposition):
        self._counted(group, name[2])
        self._accepted(group, push)
        if group.mode == "sync":
            group.missing.remove(name[2])
            if group.arrivals:
                group.gaps.append(self.t - group.arrivals[-1])
            group.arrivals.append(self.t)
        self.disposed[name] = (disposition, None, None, None)
        self._advance(group, name)

    def _published(self, group, number, *, failed):
        must(number == group.published + 1, "versions come out in their order", number=number, after=group.published)
        group.published = number
        if number in group.offers and not failed:
            group.are_there(group.offers[number])
        group.applying = None if group.applying == number else group.applying
        for name, staleness in group.in_flight.pop(number):
            if failed:
                self.facts.unmade.add(name)
            else:
                self.facts.applied[name] = number
            if staleness is not None:
                self.disposed[name] = ("skipped", None, None, None) if failed else ("applied", number, staleness, None)
                self._advance(group, name)
            elif failed:
                self.without_step[name] = "step_failed"

    def _advance(self, group, name, to=None):
        _, _, rank, incarnation, clock = name
        if self.live.get(rank) == incarnation:
            must(group.clocks[rank] == clock, "the iteration pushed is that of the clock", name=name)
            group.last[rank] = name
            group.passed.pop(rank, None)
            group.asked_from.pop(rank, None)
            self._go_on(group, rank, clock + 1 if to is None else to)

    @staticmethod
    def _go_on(group, rank, clock):
        group.clocks[rank] = clock
        group.grants[rank] = set()
        group.moved()

    def _passed_over(self, group, effect):
        """A circle of waiters is broken by leaving out a newcomer, where it is missed."""
        rank, clock = effect["rank"], effect["clock"]
        must(rank in self._left_waiting(), "who is passed over was in a circle", **effect)
        must(rank not in group.last, "who is passed over has handed in nothing there", **effect)
        uses_up = bool(group.grants.get(rank))
        next_one = group.next if group.mode == "sync" else group.clocks[rank] + 1
        must(clock == next_one + uses_up, "it is in step again with what it computes behind it", **effect)
        for known in (group.passed, group.asked_from):
            known.setdefault(rank, group.clocks[rank])
        self._go_on(group, rank, clock)
        group.missing.discard(rank)

    def _effect(self, effect):
        match effect["is"]:
            case "Began":
                must(effect["rank"] not in self.live, "a rank has one life", rank=effect["rank"])
                must(effect["rank"] not in self.kept_out, "who is in quarantine has no life", rank=effect["rank"])
                self.live[effect["rank"]] = effect["incarnation"]
                self.seats.began(effect["rank"], effect["stages"])
                self.facts.began.append((self.t, effect["rank"], effect["incarnation"]))
            case "Ended":
                rank = effect["rank"]
                must(self.live.pop(rank, None) == effect["incarnation"], "only a live one ends", rank=rank)
                self.facts.ended.append((self.t, rank, effect["incarnation"], effect["reason"]))
                self.one_after_another.discard(rank)
                self.seats.end(rank, effect["incarnation"], effect["reason"])
                for group in self.groups.values():
                    if rank in group.clocks:
                        group.forget(rank)
            case "Quarantined":
                self.kept_out.add(effect["rank"])
            case "Released":
                must(effect["rank"] in self.kept_out, "who is let in was kept out", rank=effect["rank"])
                self.kept_out.discard(effect["rank"])
            case "Forgotten":
                self.seats.is_forgotten(effect["rank"], effect["stage"])
            case "Advanced":
                group, rank, clock = self.groups[effect["group"]], effect["rank"], effect["clock"]
                if group.clocks[rank] != clock:
                    on = group.is_behind(rank) and clock == group.next
                    must(on, "a clock goes on by an own push, or when its round has closed", **effect)
                    for known in (group.passed, group.asked_from):
                        known.setdefault(rank, group.clocks[rank])
                    self._go_on(group, rank, clock)
            case "Over":
                ends = [name for name in ("until_seconds", "until_metric", "until_flat") if self.settings.get(name)]
                must(ends, "a run is over by an end that it was given", **effect)
                self.over = True
                for group in self.groups.values():
                    group.come_to_the_end()
            case "PassedOver":
                self._passed_over(self.groups[effect["group"]], effect)
            case "RoundOpened":
                group = self.groups[effect["group"]]
                # Those who are left may all have been passed over.
                group.next = max(group.next, group.min_clock)
                must(effect["number"] == group.next, "rounds are counted", next=group.next, **effect)
                group.round, group.missing = effect["number"], set(effect["members"])
                group.open, group.next = True, group.round + 1
                there = {rank for rank, clock in group.clocks.items() if clock == group.round}
                # Who is ahead was passed over.
                members = (
                    there if group.quorum else {rank for rank, clock in group.clocks.items() if clock <= group.round}
                )
                must(there == members == group.missing, "all that are live are in the round", there=there, **effect)
                enough = min(group.quorum or 0, len(group.clocks)) if group.first else 0
                must(len(there) >= enough, "the first round of a quorum has as many as it asks for", **effect)
                group.first = False
                group.started = True
                must(not group.held, "nothing is left of the round before", held=group.held)
            case "RoundClosed":
                self._closed(self.groups[effect["group"]], effect)
            case "Initialize" | "Adopt":
                group = self.groups[effect["group"]]
                must(effect["number"] == group.decided + 1, "versions grow by one", number=effect["number"])
                group.in_flight[effect["number"]] = []
                group.offers[effect["number"]] = {spec["name"] for spec in effect["specs"]}
                if effect["is"] == "Adopt":
                    group.named_from = effect["number"]
            case "Apply":
                self._apply(self.groups[effect["group"]], effect)
            case "Create":
                must(effect["group"] not in self.groups, "a part is made once", **effect)
                of_group = settings_of(effect["group"], self.settings)
                self.groups[effect["group"]] = Group.made(of_group, self.settings)
            case "Parked" if effect["group"] and effect["rank"] and effect["reason"] != "waiting-for-stages":
                self.groups[effect["group"]].waits(effect["rank"], effect["request"])
            case "Pin":
                self.groups[effect["group"]].pinned = tuple(effect["versions"])
            case "Drop":
                for body in effect["bodies"]:
                    self.bodies.pop(body, None)
            case "SwitchBegun":
                group = self.groups[effect["group"]]
                group.mode, group.bound, group.switching_at = "switching", None, effect["at"]
                group.applying = None
                group.quorum, group.grace, group.next = effect["quorum"], effect["grace_seconds"], effect["at"]
            case "Switched":
                group = self.groups[effect["group"]]
                if effect["mode"] != "sync":
                    group.gaps.clear()
                    group.applying = None
                group.first = group.mode == "switching"
                group.mode, group.bound, group.switching_at = effect["mode"], effect["staleness"], None
                group.quorum, group.grace = effect["quorum"], effect["grace_seconds"]
                self.facts.modes.append(effect["mode"])
            case "Finished":
                left = [name for name, group in self.groups.items() if group.in_flight or group.held]
                must(not left, "the end comes when all is applied", groups=left)
                must(self._end_has_come(), "the end comes when every group with an end has come to it")
                computing = [
                    name for name, group in self.groups.items() if group.until is None and any(group.grants.values())
                ]
                must(not computing, "the end waits for who computes where there is none", groups=computing)
                self.facts.finished = True
            case "Answered":
                self._answered(effect["request"], effect["reply"])

    def _closed(self, group, effect):
        must(group.open and effect["number"] == group.round, "a round closes once", **effect)
        late = set() if self.switching else group.missing
        if late != set(effect["late"]) and group.until is None and self._end_has_come():
            group.come_to_the_end()
            late = group.missing
        if late:
            due = group.deadline is not None and group.deadline <= self.t + ROUNDING_SECONDS
            must(due, "a round closes when nobody is missing, or with its quorum after its grace", **effect)
        must(set(effect["late"]) == late, "late are those who are missing", **effect)
        group.missing, group.open, group.arrivals = set(), False, []
        must(set(effect["contributors"]) == set(group.held), "all that is held is in the step", **effect)
        too_few = 0 < len(group.held) < group.least
        must(effect["needed"] == (group.least if too_few else None), "too few make no step", **effect)
        if too_few:
            self.without_step |= dict.fromkeys(group.held.values(), "too_few")
            self.facts.unmade |= set(group.held.values())
            group.held.clear()

    def _apply(self, group, effect):
        number = effect["number"]
        must(number == group.decided + 1, "versions grow by one", number=number, after=group.decided)
        group.in_flight[number] = []
        if effect["aggregated"]:
            group.applying = number
        enough = not effect["aggregated"] or len(effect["contributions"]) >= group.least
        must(enough, "a step has the updates that its rule needs", **effect)
        for contribution in effect["contributions"]:
            found = [self.bodies.pop(body, None) for body in contribution["bodies"]]
            must(None not in found, "what is applied was pushed, and once", version=number, **contribution)
            must(len({one[0] for one in found}) == 1, "an update is of one iteration", names=[one[0] for one in found])
            name = found[0][0]
            is_whole(name, [one[2] for one in found if one[2]])
            must(name[2] == contribution["rank"], "an update is its own rank's", name=name)
            must(name[1] == effect["group"], "an update is in its own group alone", name=name, group=effect["group"])
            must({one[1] for one in found} == {contribution["samples"]}, "the weight is what was pushed", name=name)
            twice = name in self.facts.applied or any(
                name == other for updates in group.in_flight.values() for other, _ in updates
            )
            must(not twice, "an update is applied once", name=name)
            must(self.disposed.get(name, ("held",))[0] == "held", "what is dropped is in no step", name=name)
            group.in_flight[number].append((name, None if effect["aggregated"] else effect["staleness"]))
            if effect["aggregated"]:
                must(group.held.pop(name[2], None) == name, "a step is made of what is held", name=name)
                must(not group.open, "a step is made when its round is closed", name=name)
            else:
                push = found[0][2]
                self._counted(group, name[2])
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

    def _answered(self, request, reply):
        message = self.messages.pop(request, None)
        must(message is not None, "a request is answered once, and only while it is there", request=request)
        stuck = self._left_waiting()
        self._waits_no_more(request)
        pushed = reply["pushed"] if reply["is"] == "PushPulled" else reply
        match pushed["is"]:
            case "Pushed":
                self._disposed(message, pushed)
            case "Staged":
                self._staged(message, pushed)
            case "Departed":
                self._departed(message["life"])
            case "Offered" if message["ask"] and message["spread"] and message["whole"] and pushed["wanted"]:
                group = self.groups[message["group"] or DEFAULT_GROUP]
                group.declared = {spec["name"] for spec in message["specs"]}
                group.are_there(set())
            case "Joined":
                if message["place"]:
                    self.seats.are_told(message["rank"], pushed["replica"])
                if message["one_after_another"]:
                    self.one_after_another.add(message["rank"])
                for name, group in self.groups.items():
                    if message["rank"] in group.clocks and name not in pushed["groups"]:
                        group.forget(message["rank"])
                for name, state in pushed["groups"].items():
                    group = self.groups[name]
                    group.arrived.add(message["rank"])
                    clock = group.clocks.setdefault(message["rank"], state["clock"])
                    must(clock == state["clock"], "a life goes on at its clock", rank=message["rank"])
                    count = group.committed.get(message["rank"], 0)
                    must(state["committed"] == count, "a rank goes on behind what was accepted of it", count=count)
                    start = {"sync": group.next, "switching": group.switching_at}.get(group.mode, group.min_clock)
                    if not pushed["resumed"]:
                        must(clock == start, "a joiner starts at the min clock, or with the next round", start=start)
                    group.moved()
        granted = reply["pulled"] if reply["is"] == "PushPulled" else reply
        if granted["is"] == "Granted":
            self._granted(message, granted, reply)
        elif granted["is"] == "Refused":
            if (life := message.get("life")) and life["epoch"] == self.epoch:
                self.seats.is_told(life, granted["error"]["code"])
            self._refused(message, granted["error"], stuck)

    def _refused(self, message, error, stuck):
        if error["code"] == "deadlock":
            must(message["life"]["rank"] in stuck, "who gives way was in a circle", request=message, circle=stuck)
        elif error["code"] == "finished" and message["is"] in ("Barrier", "Join"):
            must(self._end_has_come(), "nobody is told of an end that has not come", request=message)
        elif error["code"] == "finished" and self.live.get(message["life"]["rank"]) == message["life"]["incarnation"]:
            rank, group = message["life"]["rank"], self.groups[message["group"]]
            own = group.until is not None and group.clocks[rank] >= group.until
            must(
                own or group.over or self._end_has_come(), "nobody is told of an end that has not come", request=message
            )
            group.grants[rank] = set()
            group.missing.discard(rank)

    def _staged(self, push, staged):
        name = self._name(push)
        there = {one["part"] for other, _, one in self.bodies.values() if one and other == name}
        missing = set(range(push["parts"])) - there
        must(missing and set(staged["missing"]) == missing, "who waits is told which parts are missing", name=name)

    def _departed(self, life):
        """A stage that leaves ends the life, unless that has come to its end: then the others say goodbye too."""
        rank = life["rank"]
        if self.live.get(rank) != life["incarnation"] or life["epoch"] != self.epoch:
            return
        (group,) = (group for group in self.groups.values() if rank in group.clocks)
        own = group.until is not None and group.clocks[rank] >= group.until
        must(own or group.over or self._end_has_come(), "a life without one of its stages has come to its end", **life)
        must(not group.grants.get(rank), "who computes does not end", **life)

    def _disposed(self, push, pushed):
        # A server that goes on from a checkpoint has the push under its own epoch, whatever the repeat names.
        name = (self.epoch, *self._name(push)[1:])
        end = tuple(pushed[fact] for fact in ("disposition", "version", "staleness", "next_clock"))
        known = self.disposed.get(name)
        must(end == known, "what is told is what was done, whenever", name=name, told=end, done=known)
        must(pushed["clock"] == push["clock"], "a reply is about its push", push=push, **pushed)
        self.facts.told[name] = pushed["disposition"]

    def _granted(self, message, granted, reply):
        group = self.groups[message["group"]]
        epoch, number = (int(part) for part in granted["version"].split("."))
        exchange = {"request": message, "granted": granted}
        must(group.readable, "there is something to read", **exchange)
        if message["life"] is None:
            must((epoch, number) == (self.epoch, group.published), "a pull gets the newest version", **exchange)
            return
        rank = message["life"]["rank"]
        shared = group.grants.get(rank) if rank in self.seats.live else None
        if shared:
            must({(number, granted["round"])} == shared, "all stages of a replica get one version", **exchange)
            there = granted["unchanged"] or number in (group.published, *group.pinned)
            must(epoch == self.epoch and there, "what a stage is granted is kept", **exchange)
        else:
            must((epoch, number) == (self.epoch, group.published), "a pull gets the newest version", **exchange)
        must(self.live.get(rank) == message["life"]["incarnation"], "only a live one is granted", **exchange)
        clock, asked = group.clocks[rank], message["clock"]
        if reply["is"] == "PushPulled":
            asked = asked + 1 if reply["pushed"]["next_clock"] is None else reply["pushed"]["next_clock"]
        in_turn = group.asked_from.get(rank, clock) <= asked <= clock
        must(in_turn and granted["clock"] == clock, "a pull is of the clock's iteration", clock=clock, **exchange)
        lag = clock - group.min_clock
        must(granted["lag"] == lag, "the lag is clock minus min clock", lag=lag, **exchange)
        if shared:
            group.seen[rank] = number
            return  # it was the first stage's to wait for its turn
        if group.mode in ("async", "ssp"):
            must(group.all_have_joined, "nobody begins before all have joined", **exchange)
        if group.mode == "ssp":
            must(lag <= group.bound, "no pull is answered beyond the bound", lag=lag, bound=group.bound, **exchange)
        if group.mode == "sync":
            must(granted["round"] == group.round and rank in group.missing, "a pull is a member's", **exchange)
        if group.mode == "switching":
            must(clock < group.switching_at, "nobody passes the clock of the switch", **exchange)
        why = self.without_step.get(group.last.get(rank))
        for reason in ("step_failed", "too_few"):
            must(granted[reason] == (why == reason), f"a contributor is told of its {reason}", why=why, **exchange)
        must(number >= group.owed.get(rank, 0), "a worker reads its own writes", owed=group.owed.get(rank), **exchange)
        must(number >= group.seen.get(rank, 0), "versions never go back", seen=group.seen.get(rank), **exchange)
        group.seen[rank], group.started = number, True
        group.grants.setdefault(rank, set()).add((number, granted["round"]))
        self.facts.granted.append((self.t, rank, clock, lag, number))


def _answers(effects):
    return {effect["request"]: effect["reply"] for effect in effects if effect["is"] == "Answered"}


def _waits_for_parts(effect):
    return effect["is"] == "Parked" and effect["reason"] == "waiting-for-stages"
