"""Requests as hypothesis draws them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from leeway.protocol import limits
from leeway.protocol.barriers import Barrier
from leeway.protocol.fields import MAX_INTEGER
from leeway.protocol.handovers import ROUNDED, Call, Direction, Handover, Label, Purpose
from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.quarantine import Quarantine, Release
from leeway.protocol.ranks import is_rank
from leeway.protocol.replicas import Place
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec
from leeway.protocol.times import StepTimes
from leeway.protocol.tuning import SetOptimizer, SetPolicy
from leeway.protocol.versions import Version

ranks = st.text("aw.-_09", min_size=1, max_size=64).filter(is_rank)
counts = st.integers(0, MAX_INTEGER)
lives = st.builds(Life, ranks, counts, st.integers(1, MAX_INTEGER), st.none() | st.integers(0, limits.MAX_STAGES - 1))
versions = st.builds(Version, st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
# As precise as `Prefer: wait` is.
waits = st.none() | st.floats(0, limits.MAX_WAIT_SECONDS).map(lambda seconds: float(f"{seconds:g}"))
specs = st.sets(st.sampled_from("abcdef"), min_size=1, max_size=3).map(
    lambda names: tuple(TensorSpec(name, (3,), "float32", Kind.TRAINABLE) for name in sorted(names))
)


ANY_TEXT = st.text()


@st.composite
def pushes(draw, names=ANY_TEXT):
    common = {
        "life": draw(lives),
        "clock": draw(counts),
        "version": draw(counts),
        "group": draw(ranks),
        "round": draw(st.none() | counts),
        "pull": draw(st.booleans()),
        "since": draw(st.none() | versions),
        "wait_seconds": draw(waits),
        "metrics": draw(st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3)),
        "times": draw(st.none() | st.builds(StepTimes, counts, *[st.floats(0, limits.MAX_STEP_SECONDS)] * 5)),
    }
    if draw(st.booleans()):
        return Push(kind=UpdateKind.SKIP, **common)
    parts = draw(st.integers(1, limits.MAX_PARTS))
    keys = sorted(draw(st.lists(names, max_size=3, unique=True)))
    return Push(
        kind=draw(st.sampled_from([kind for kind in UpdateKind if kind is not UpdateKind.SKIP])),
        samples=draw(st.integers(1, MAX_INTEGER)),
        part=draw(st.integers(0, parts - 1)),
        parts=parts,
        keys=tuple(keys),
        values=tuple(key for key in keys if draw(st.booleans())),
        **common,
    )


@st.composite
def places(draw):
    stages = draw(st.integers(1, limits.MAX_STAGES))
    owned = draw(st.none() | st.lists(st.text(min_size=1, max_size=9), max_size=3).map(tuple))
    return Place(
        draw(st.integers(0, stages - 1)),
        stages,
        draw(st.text(max_size=limits.MAX_ADDRESS)),
        draw(st.dictionaries(st.text(), st.text(min_size=1, max_size=limits.MAX_PLAN_TEXT), max_size=3)),
        draw(st.text(max_size=99)),
        None if owned is None else (*owned, "another"),
        owned,
    )


joins = st.builds(
    Join,
    ranks,
    st.text(min_size=1, max_size=limits.MAX_SESSION_LENGTH),
    st.none() | st.lists(st.text(), min_size=1, max_size=3).map(tuple),
    place=st.none() | places(),
    wait_seconds=waits,
)
pulls = st.builds(
    Pull, group=ranks, life=lives, clock=counts, min_version=counts, since=st.none() | versions, wait_seconds=waits
)
readers_pulls = st.builds(Pull, group=ranks, min_version=counts, since=st.none() | versions)
barriers = st.builds(Barrier, lives, ranks, counts, st.integers(1, limits.MAX_RANKS), waits)
policies = st.builds(
    SetPolicy,
    st.builds(
        PolicyTerms,
        st.text(min_size=1, max_size=32),
        st.none() | st.integers(0, limits.MAX_STALENESS),
        st.none() | st.integers(1, limits.MAX_RANKS),
        st.none() | st.floats(0, limits.MAX_GRACE_SECONDS),
    ),
    ranks,
)
optimizers = st.builds(SetOptimizer, ranks, st.dictionaries(st.text(), st.floats(0, 1) | st.text(), max_size=3))


@st.composite
def offers(draw):
    offered = draw(specs)
    # Aliases are no tensors of the offer.
    aliases = {spec.name: (spec.name.upper(),) for spec in offered if draw(st.booleans())}
    flags = {name: draw(st.booleans()) for name in ("ask", "whole", "spread")}
    return Offer(offered, group=draw(st.none() | ranks), aliases=aliases, **flags)


@st.composite
def labels(draw):
    direction = draw(st.sampled_from(Direction))
    sender = draw(st.integers(1, 1000))
    other = draw(st.integers(0, 1000).filter(lambda stage: stage != sender))
    receiver = {Direction.FORWARD: sender + 1, Direction.BACKWARD: sender - 1}.get(direction, other)
    micro_batch = 0 if direction is Direction.SHARE else draw(counts)
    return Label(draw(lives), sender, receiver, draw(counts), direction, micro_batch)


@st.composite
def handovers(draw):
    total = draw(counts)
    handed = draw(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([*DTYPES]), max_size=3))
    label = draw(labels())
    call = Call(draw(st.sampled_from(Purpose)), draw(st.integers(1, limits.MAX_PARTS)))
    return Handover(label, call, draw(st.integers(0, total)), total, tuple(handed.items()))


def carried(handover):
    """The tensors of its frame, rounded where they may be."""
    rounded = handover.label.direction is not Direction.SHARE
    return tuple(
        TensorSpec(name, (3,), ROUNDED if rounded else dtype, Kind.FLOAT_BUFFER)
        if DTYPES[dtype].floating
        else TensorSpec(name, (3,), dtype, Kind.INTEGER_BUFFER)
        for name, dtype in handover.handed
    )


ON_THE_WIRE = {
    Join: joins,
    Leave: st.builds(Leave, lives),
    Heartbeat: st.builds(Heartbeat, lives),
    Offer: offers(),
    Pull: pulls | readers_pulls,
    # Without `pull` nobody asks what is held.
    Push: pushes(st.sampled_from("abcdef")).map(
        lambda push: push if push.pull else replace(push, since=None),
    ),
    Barrier: barriers,
    SetPolicy: policies,
    SetOptimizer: optimizers,
    Quarantine: st.builds(Quarantine, ranks, st.text(min_size=1, max_size=300)),
    Release: st.builds(Release, ranks),
    Handover: handovers(),
}
