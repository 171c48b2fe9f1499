"""Groups are independent but for their members: what a server of several groups does in one of them is what a server of
that group alone does, which is compared with the oracle in `test_policies`.

Leases, circles of waiters and the end are what groups have in common: here no life falls silent, asks for one thing
after another, or comes to an end (tests/simulation/test_parts.py).
"""

import json

from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.lives import Life
from leeway.protocol.membership import Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import SetPolicy
from leeway.ps.core.effects import Answered, Apply, Began, Drop, Ended, Initialize
from leeway.ps.core.events import Asked, Failed, Published, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.history import plain
from tests.properties.test_policies import QUORUMS, some

NAMES = ("a", "b", "c")
RANKS = ("w0", "w1", "w2")
POLICIES = [PolicyTerms(*terms) for terms in (("sync",), ("async",), ("ssp", 0), ("ssp", 2), *QUORUMS)]
VERBS = (*("step",) * 8, *("pull",) * 4, *("push",) * 4, *("publish",) * 4, "skip", "join", "rejoin", "leave", "policy")
WAITS_SECONDS = (30.25, 30.25, None, 4.25)


class Projected:
    """One machine with all groups, and one machine for each of them, told what concerns it."""

    def __init__(self, terms, workers):
        groups = [GroupSettings(one, name, (f"{name}/*",)) for name, one in zip(NAMES, terms, strict=True)]
        self.settings = {name: Settings((group,), workers, 1e9) for name, group in zip(NAMES, groups, strict=True)}
        self.machines = {name: Machine(settings, epoch=1) for name, settings in self.settings.items()}
        self.all_settings = Settings(tuple(groups), workers, 1e9)
        self.machine = Machine(self.all_settings, epoch=1)
        self.now, self.asked, self.sessions = 0.0, 0, dict.fromkeys(RANKS, 0)
        # Of each request: its group, or None.
        self.about = {}
        self.making = {name: [] for name in NAMES}

    def happen(self, name, event, of_group=None):
        """`name`: of the group that it concerns, None: of all. `of_group`: the event as its machine is told of it."""
        told = of_group or (lambda _: event)
        effects = self.machine.step(event, self.now)
        for one in NAMES:
            ours = self.machines[one].step(told(one), self.now) if name in (None, one) else []
            expected = [_restricted(plain(effect), one) for effect in ours]
            assert [_restricted(plain(effect), one) for effect in effects if self._concerns(effect, one)] == expected
        for effect in effects:
            if isinstance(effect, (Apply, Initialize)):
                self.making[effect.group].append(effect.number)

    def _concerns(self, effect, group):
        """Whether this group's machine has to have it as well."""
        match effect:
            case Answered(request) | Drop((request, *_)):
                return self.about[request] in (None, group)
            case Began() | Ended():
                return True
        return effect.group == group

    def ask(self, name, message, of_group=None):
        self.asked += 1
        number = self.asked
        self.about[number] = name
        told = (lambda group: Asked(number, of_group(group))) if of_group else None
        self.happen(name, Asked(number, message), told)

    def play(self, verb, rank, name, n):
        self.now += n % 3
        self.happen(None, Tick())  # what is due is so everywhere
        member = self.machine.membership.of_rank(rank)
        life = Life(rank, 1, member.number if member else max(1, self.sessions[rank]))
        progress = member.groups[name] if member else None
        wait_seconds = WAITS_SECONDS[n % 4]
        match verb:
            case "join" | "rejoin":
                self.sessions[rank] += verb == "rejoin"
                session = f"{rank}-{self.sessions[rank]}"
                self.ask(None, Join(rank, session, NAMES), lambda group: Join(rank, session, (group,)))
            case "leave":
                self.ask(None, Leave(life))
            case "policy":
                self.ask(name, SetPolicy(POLICIES[n % len(POLICIES)], name))
            case "publish" if self.making[name]:
                number = self.making[name].pop(0)
                self.happen(name, (Failed if n == 7 else Published)(name, number))
            case "pull" | "step":
                self.ask(name, Pull(name, life, progress.clock if progress else 0, wait_seconds=wait_seconds))
                if verb == "step":
                    self.play("push", rank, name, n)
            case "push" | "skip":
                version, number = progress.grants[-1] if progress and progress.grants else (1, None)
                kind = UpdateKind.SKIP if verb == "skip" else UpdateKind.GRADIENT
                more = {"group": name, "round": number, "pull": n % 2 == 0, "wait_seconds": wait_seconds}
                clock = progress.clock if progress else 0
                self.ask(name, Push(life, clock, version, kind, int(verb == "push"), **more))

    def restart(self):
        for name in NAMES:
            while self.making[name]:
                self.play("publish", "w0", name, 0)
        self.machine = _again(self.machine, self.all_settings, self.now)
        self.machines = {name: _again(one, self.settings[name], self.now) for name, one in self.machines.items()}


def _again(machine, settings, now):
    """From what it has saved; the bodies keep their numbers."""
    state, bodies = save(machine)
    return restore(settings, json.loads(json.dumps(state)), bodies, 1, now)


def _restricted(row, group):
    """What is told of all groups a life is in, as far as it concerns this one."""
    if isinstance(row, list):
        return [_restricted(one, group) for one in row]
    if not isinstance(row, dict):
        return row
    row = {key: _restricted(value, group) for key, value in row.items()}
    for of_groups in ("groups", "last"):
        if isinstance(row.get(of_groups), dict):
            row[of_groups] = {name: one for name, one in row[of_groups].items() if name == group or name not in NAMES}
    return row


moves = st.tuples(
    st.sampled_from([*VERBS, "restart"]), st.sampled_from(RANKS), st.sampled_from(NAMES), st.integers(0, 7)
)


@some(150)
@given(
    terms=st.tuples(*(st.sampled_from(POLICIES) for _ in NAMES)),
    workers=st.integers(1, 3),
    schedule=st.lists(moves, min_size=30, max_size=90),
)
def test_what_happens_in_a_group_is_what_happens_in_it_alone(terms, workers, schedule):
    run = Projected(terms, workers)
    for rank in RANKS:
        run.play("join", rank, "a", 0)
    for name in NAMES:
        run.ask(name, Offer((TensorSpec(f"{name}/w", (2,), "float32", Kind.TRAINABLE),), group=name))
        run.play("publish", "w0", name, 0)
    for verb, rank, name, n in schedule:
        if verb == "restart":
            run.restart()
        else:
            run.play(verb, rank, name, n)
