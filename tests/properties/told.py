"""What the machine did, as the plain tuples in which the oracle tells it: replies, steps, drops, the rest."""

from leeway.protocol.barriers import Passed
from leeway.protocol.membership import Departed, Joined, Renewed
from leeway.protocol.offers import Offered
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Pushed, PushPulled, Staged
from leeway.protocol.quarantine import QuarantineState
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import PolicyState
from leeway.ps.core.effects import (
    Accepted,
    Answered,
    Apply,
    Began,
    Drop,
    Ended,
    Finished,
    Initialize,
    Quarantined,
    Released,
    RoundClosed,
    RoundOpened,
    SwitchBegun,
    Switched,
)


def told(reply):
    match reply:
        case Granted(version):
            place = (reply.lag, reply.index, reply.count)
            return (
                "granted",
                version.epoch,
                version.number,
                reply.clock,
                reply.round,
                *place,
                reply.unchanged,
                reply.step_failed,
                reply.too_few,
            )
        case NotYet():
            return ("not-yet", reply.reason, reply.waiting_for)
        case Pushed():
            return (
                "pushed",
                reply.clock,
                reply.disposition,
                reply.reason,
                reply.version,
                reply.staleness,
                reply.next_clock,
            )
        case PushPulled(pushed, pulled):
            return ("push-pulled", told(pushed), told(pulled))
        case Staged(clock, missing):
            return ("staged", clock, missing)
        case Refused(error) if "missing" in error.facts:
            # Few enough here for all of them to be named.
            return ("refused", error.code, {"keys": {*error.facts["missing"], *error.facts["extra"]}})
        case Refused(error):
            return ("refused", error.code, error.facts)
        case Joined():
            group = reply.groups["default"]
            last = group.last and (group.last.clock, group.last.disposition)
            place = (reply.index, reply.count)
            barriers = dict(reply.barriers)
            return ("joined", reply.epoch, reply.incarnation, reply.resumed, *place, group.clock, last, barriers)
        case Offered():
            return ("offered", reply.stored, reply.kept, reply.wanted)
        case Passed():
            return ("passed", reply.name, reply.generation)
        case Departed():
            return ("departed", reply.rank)
        case Renewed():
            return ("renewed", reply.lease_seconds)
        case QuarantineState():
            return ("quarantine", reply.rank, reply.why is not None)
        case PolicyState():
            mode, staleness, *quorum = reply.terms.to_fields().values()
            return ("policy", mode, staleness, reply.switching_at, *quorum)


def replies(effects):
    return [(effect.request, told(effect.reply)) for effect in effects if isinstance(effect, Answered)]


def applies(effects):
    found = []
    for effect in effects:
        match effect:
            case Apply():
                who = tuple((one.rank, one.samples, one.bodies) for one in effect.contributions)
                assert effect.group == "default"
                found.append((effect.number, effect.kind, who, effect.aggregated, effect.live, effect.staleness))
            case Initialize():
                names = tuple(spec.name for spec in effect.specs)
                found.append(("initialize", effect.number, effect.body, names))
    return found


def drops(effects):
    return [body for effect in effects if isinstance(effect, Drop) for body in effect.bodies]


def happened(effects):
    found = []
    for effect in effects:
        match effect:
            case Began():
                found.append(("began", effect.rank, effect.incarnation))
            case Ended():
                found.append(("ended", effect.rank, effect.incarnation, effect.reason))
            case Quarantined():
                found.append(("quarantined", effect.rank))
            case Released():
                found.append(("released", effect.rank))
            case RoundOpened():
                found.append(("round-opened", effect.number, effect.members))
            case RoundClosed():
                updates = (effect.contributors, effect.samples, effect.needed)
                found.append(("round-closed", effect.number, *updates, effect.late))
            case SwitchBegun():
                mode, _, *quorum = effect.terms.to_fields().values()
                found.append(("switch-begun", mode, effect.at, *quorum, effect.waiting_for))
            case Switched():
                mode, staleness, *quorum = effect.terms.to_fields().values()
                found.append(("switched", mode, staleness, effect.switch_point, *quorum))
            case Accepted():
                end = (effect.disposition, effect.reason)
                found.append(("accepted", effect.rank, effect.clock, *end, effect.samples))
            case Finished():
                found.append(("finished",))
    return found
