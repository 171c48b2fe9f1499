"""All that is asked and answered: frozen messages, the same on the wire, in the pure core and in the simulation.

A request stands in one file with its replies. The one rule: a request names everything it depends on (epoch,
incarnation, clock), so that it can be judged whenever its last byte comes in, however often it is sent; a reply says
what was decided, why, and what the asker needs to go on. No tensor is in a message; frames carry those.
"""

from __future__ import annotations

from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.handovers import Handover, Taken
from leeway.protocol.membership import Departed, Heartbeat, Join, Joined, Leave, Renewed
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Push, Pushed, PushPulled, Staged
from leeway.protocol.quarantine import Quarantine, QuarantineState, Release
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import OptimizerState, PolicyState, SetOptimizer, SetPolicy

WorkerRequest = Leave | Heartbeat | Pull | Push | Barrier
Request = Join | Offer | SetPolicy | SetOptimizer | Quarantine | Release | WorkerRequest

# What a stage of a pipeline asks of another. No parameter server answers it.
StageRequest = Handover

Reply = (
    Joined
    | Departed
    | Renewed
    | Offered
    | Granted
    | NotYet
    | Pushed
    | Staged
    | PushPulled
    | Passed
    | PolicyState
    | OptimizerState
    | QuarantineState
    | Taken
    | Refused
)
