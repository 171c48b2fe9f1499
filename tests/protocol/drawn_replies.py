"""Replies: an example of each, and as hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st

from leeway.errors import WireError
from leeway.protocol import limits
from leeway.protocol.barriers import Passed
from leeway.protocol.codes import Code
from leeway.protocol.fields import MAX_INTEGER
from leeway.protocol.handovers import Direction, Taken
from leeway.protocol.membership import Departed, GroupState, Joined, Renewed
from leeway.protocol.offers import Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Disposition, LastPush, Pushed, PushPulled, Staged
from leeway.protocol.quarantine import QuarantineState
from leeway.protocol.ranks import is_rank
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.replicas import Replica, Stage
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import OptimizerState, PolicyState
from leeway.protocol.versions import Version

W = TensorSpec("w", (3,), "float32", Kind.TRAINABLE)
GRANTED = Granted(Version(1, 4), Reason.GRANTED, clock=3, round=3, lag=1, index=0, count=2)
NOT_YET = NotYet(Reason.LAG, "w0 leads w1 by 2 > 1", ("w1",))
PUSHED = Pushed(3, Disposition.APPLIED, Reason.ON_ARRIVAL, 5, 0)
LAST = LastPush(3, Disposition.HELD)
GROUP = GroupState(4, "ssp", LAST, (W,), whole=True, until=0)
JOINED = Joined(1, 2, False, 10.0, 0, 2, {"default": GROUP}, {"b": 1}, until=9)

counts = st.integers(0, MAX_INTEGER)
maybe_counts = st.none() | counts
ranks = st.text("aw.-_09", min_size=1, max_size=64).filter(is_rank)
reasons = st.sampled_from(Reason)
dispositions = st.sampled_from(Disposition)
last = st.builds(LastPush, counts, st.none() | dispositions)
groups = st.builds(
    GroupState,
    counts,
    st.text(min_size=1, max_size=64),
    st.none() | last,
    st.lists(st.just(W), max_size=2).map(tuple),
    until=maybe_counts,
    committed=counts,
)
replicas = st.builds(
    Replica,
    st.lists(st.builds(Stage, st.text(max_size=9), st.text(max_size=9)), max_size=3).map(tuple),
    st.text(max_size=limits.MAX_SECRET),
)
names = st.lists(st.text(), max_size=3).map(tuple)

REPLIES = {
    LastPush: last,
    GroupState: groups,
    Joined: st.builds(
        Joined,
        epoch=counts,
        incarnation=st.integers(1, MAX_INTEGER),
        resumed=st.booleans(),
        lease_seconds=st.floats(0, 1e9),
        index=counts,
        count=st.integers(1, MAX_INTEGER),
        groups=st.dictionaries(ranks, groups, max_size=2),
        barriers=st.dictionaries(ranks, counts, max_size=2),
        until=st.none() | st.integers(1, MAX_INTEGER),
        replica=st.none() | replicas,
    ),
    Granted: st.builds(
        Granted,
        st.builds(Version, counts, counts),
        reasons,
        clock=maybe_counts,
        round=maybe_counts,
        lag=counts,
        index=counts,
        count=counts,
        unchanged=st.booleans(),
    ),
    NotYet: st.builds(NotYet, reasons, st.text(min_size=1, max_size=99), st.lists(ranks, max_size=3).map(tuple)),
    Pushed: st.builds(Pushed, counts, dispositions, reasons, maybe_counts, maybe_counts, maybe_counts),
    Staged: st.builds(Staged, counts, st.lists(st.integers(0, limits.MAX_PARTS), max_size=4).map(tuple)),
    Offered: st.builds(Offered, names, names, names),
    Passed: st.builds(Passed, ranks, counts),
    Renewed: st.builds(Renewed, st.floats(0, 1e9)),
    Departed: st.builds(Departed, ranks),
    PolicyState: st.builds(
        PolicyState,
        ranks,
        st.builds(PolicyTerms, st.text(min_size=1, max_size=32), maybe_counts)
        | st.builds(
            PolicyTerms,
            st.just("sync"),
            st.none(),
            st.integers(1, limits.MAX_RANKS),
            st.none() | st.floats(0, 3600),
        ),
        maybe_counts,
    ),
    Taken: st.builds(Taken, counts, st.sampled_from(Direction), counts, st.booleans()),
    QuarantineState: st.builds(QuarantineState, ranks, st.none() | st.text(min_size=1, max_size=300)),
    OptimizerState: st.builds(
        OptimizerState,
        ranks,
        st.dictionaries(st.text().filter(lambda name: name != "group"), st.floats(0, 1) | st.none(), max_size=3),
    ),
}


class KnownError(WireError):
    """An error that equals what a peer reads of it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WireError) and self.to_document() == other.to_document()

    __hash__ = None


refusals = st.builds(
    lambda code, detail, clock: Refused(KnownError(code, detail, clock=clock)), st.sampled_from(Code), st.text(), counts
)
REPLIES |= {
    Refused: refusals,
    PushPulled: st.builds(PushPulled, REPLIES[Pushed], REPLIES[Granted] | REPLIES[NotYet] | refusals),
}
