"""What the machine wants done. The runtime carries effects out and decides nothing: deeds first, in order, then words.

Bodies are named by the number of the request that brought them. Every body of a push ends in exactly one
`Apply` or one `Drop`: none is lost, none is used twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.messages import Reply
    from leeway.protocol.policy_terms import PolicyTerms
    from leeway.protocol.pushes import Disposition, UpdateKind
    from leeway.protocol.reasons import Reason
    from leeway.protocol.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Answered:
    """Send this reply; the request is done."""

    request: int
    reply: Reply

    def __str__(self) -> str:
        return str(self.reply)


@dataclass(frozen=True, slots=True)
class Parked:
    """The request waits. `group` None: at a named barrier, or, with incarnation 0, for the other stages of a replica;
    `rank` None: a reader's. `waiting_for`: ranks. `stage`: the one that asks.
    """

    request: int
    group: str | None
    rank: str | None
    incarnation: int
    reason: Reason
    detail: str
    waiting_for: tuple[str, ...] = ()
    stage: int | None = None

    @property
    def who(self) -> str:
        if self.rank is None:
            return "reader"
        stage = "" if self.stage is None else f"/{self.stage}"
        return f"{self.rank}{stage}#{self.incarnation}" if self.incarnation else f"{self.rank}{stage}"

    def __str__(self) -> str:
        return f"park {self.who}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last part of this push is in, and what becomes of it is decided; `disposition` None: when it is applied.

    `figures`: what the worker reports with it, in whichever part.
    """

    request: int
    group: str
    rank: str
    clock: int
    disposition: Disposition | None
    reason: Reason
    samples: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"accept {self.group} {self.rank}@{self.clock}: {self.disposition or 'on arrival'}"


@dataclass(frozen=True, slots=True)
class Advanced:
    """A live worker of the group has come to this clock."""

    group: str
    rank: str
    clock: int

    def __str__(self) -> str:
        return f"advance {self.group} {self.rank}@{self.clock}"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Others would wait in a circle for this newcomer, which is an iteration off: its group goes on without it.

    It takes part again from `clock` on; what it computes until then is late.
    """

    group: str
    rank: str
    clock: int

    def __str__(self) -> str:
        return f"passed over in {self.group}: {self.rank}, until {self.clock}"


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Who wait for others in the group wait for these, each until it comes to `clock`; nobody: nobody does.

    It is told when it changes otherwise than by an `Advanced`.
    """

    group: str
    ranks: tuple[str, ...]
    clock: int

    def __str__(self) -> str:
        ranks = f"{','.join(self.ranks)} until {self.clock}" if self.ranks else "nobody"
        return f"waiting for {self.group} {ranks}"


@dataclass(frozen=True, slots=True)
class Contribution:
    """One worker's update: its weight and its bodies, in the order of its parts."""

    rank: str
    samples: int
    bodies: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.rank}x{self.samples}"


@dataclass(frozen=True, slots=True)
class Apply:
    """Make version `number` from the one before it and these updates, in natural rank order.

    `aggregated`: one step from what the group's rule makes of them; else one update on arrival, with its `staleness`.
    `live`: live workers of the group, for buffers that are blended in on arrival.
    """

    group: str
    number: int
    kind: UpdateKind
    contributions: tuple[Contribution, ...]
    aggregated: bool
    live: int
    staleness: int = 0

    def __str__(self) -> str:
        how = "aggregate of" if self.aggregated else "apply"
        updates = " ".join(str(contribution) for contribution in self.contributions)
        return f"{how} {updates} -> {self.group} v{self.number}"


@dataclass(frozen=True, slots=True)
class Initialize:
    """Make version `number` by adding these tensors of an offered body to the group."""

    group: str
    number: int
    body: int
    specs: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        return f"initialize {self.group} v{self.number} {','.join(spec.name for spec in self.specs)}"


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make version `number` from the one before it, which a file gave: the same values as the tensors of a model.

    `specs`: all tensors of the group from here on; `sources`: what each was called in the version before.
    """

    group: str
    number: int
    specs: tuple[TensorSpec, ...]
    sources: Mapping[str, str]

    def __str__(self) -> str:
        renamed = [f"{old} as {new}" for new, old in self.sources.items() if new != old]
        return f"adopt {self.group} v{self.number} {', '.join(renamed) or 'as the model has it'}"


@dataclass(frozen=True, slots=True)
class Create:
    """Begin a group of this name, with the default group's settings and nothing in it."""

    group: str

    def __str__(self) -> str:
        return f"create {self.group}"


@dataclass(frozen=True, slots=True)
class Pin:
    """Keep these versions of the group, and no others, for stages that have not been answered yet.

    One that was not kept before is the newest published one.
    """

    group: str
    versions: tuple[int, ...]

    def __str__(self) -> str:
        return f"keep {self.group} {' '.join(f'v{number}' for number in self.versions) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Configure:
    """The group's optimizer goes by these settings, from the next version decided on."""

    group: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"configure {self.group}"


@dataclass(frozen=True, slots=True)
class Drop:
    """These bodies are wanted by nobody."""

    bodies: tuple[int, ...]

    def __str__(self) -> str:
        return f"drop {','.join(str(body) for body in self.bodies)}"


@dataclass(frozen=True, slots=True)
class Began:
    """A new life of a rank. `stages`: of how many processes, where it is a replica."""

    rank: str
    incarnation: int
    stages: int | None = None

    def __str__(self) -> str:
        stages = "" if self.stages is None else f" of {self.stages} stages"
        return f"began {self.rank}#{self.incarnation}{stages}"


@dataclass(frozen=True, slots=True)
class Ended:
    """A life has ended."""

    rank: str
    incarnation: int
    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"ended {self.rank}#{self.incarnation}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A process that came for a stage, or was expected back, was silent for its lease before the life began."""

    rank: str
    stage: int

    def __str__(self) -> str:
        return f"forgotten {self.rank}/{self.stage}"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """This rank is kept out."""

    rank: str
    why: str

    def __str__(self) -> str:
        return f"quarantine {self.rank}: {self.why}"


@dataclass(frozen=True, slots=True)
class Released:
    """It may join again."""

    rank: str

    def __str__(self) -> str:
        return f"release {self.rank}"


@dataclass(frozen=True, slots=True)
class RoundOpened:
    group: str
    number: int
    members: tuple[str, ...]

    def __str__(self) -> str:
        return f"round {self.number} opens: {','.join(self.members)}"


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """`samples` 0: nothing is published. Nor where `needed` is there: so many updates would have been.

    `late`: members who have not contributed.
    """

    group: str
    number: int
    contributors: tuple[str, ...]
    samples: int
    needed: int | None = None
    late: tuple[str, ...] = ()

    def __str__(self) -> str:
        without = f" without {','.join(self.late)}" if self.late else ""
        few = "" if self.needed is None else f", too few: {self.needed} updates are needed"
        whose = ",".join(self.contributors) or "nobody"
        return f"round {self.number} closes: {whose} ({self.samples} samples){without}{few}"


@dataclass(frozen=True, slots=True)
class SwitchBegun:
    """The group is on the way to a policy with rounds, the first of which is numbered `at`; `waiting_for`: ranks."""

    group: str
    terms: PolicyTerms
    at: int
    waiting_for: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"switching {self.group} to {self.terms} from clock {self.at}"


@dataclass(frozen=True, slots=True)
class Switched:
    """The policy in force has changed; `switch_point` is the newest version decided under the old one."""

    group: str
    terms: PolicyTerms
    switch_point: int

    def __str__(self) -> str:
        return f"switched {self.group} to {self.terms} after v{self.switch_point}"


@dataclass(frozen=True, slots=True)
class Over:
    """Nobody is granted another iteration, in any group; whoever computes is waited for."""

    why: str

    def __str__(self) -> str:
        return f"over: {self.why}"


@dataclass(frozen=True, slots=True)
class Finished:
    """Every group that workers are in has come to its end and all is applied: save and stop."""

    def __str__(self) -> str:
        return "finished"


# What is done here, before anybody is told of it.
Deed = Create | Apply | Initialize | Adopt | Pin | Configure | Drop | Finished
# What somebody outside is told, or goes on to wait for.
Word = Answered | Parked
# What listeners are told; nothing is carried out.
News = (
    Accepted
    | Advanced
    | PassedOver
    | WaitingFor
    | Began
    | Ended
    | Forgotten
    | Quarantined
    | Released
    | RoundOpened
    | RoundClosed
    | SwitchBegun
    | Switched
    | Over
)

Effect = Deed | Word | News
