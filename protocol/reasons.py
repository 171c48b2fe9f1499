"""Why something was decided: a fixed set, in every reply, log line and metric label.

The one rule: a decision without a reason cannot be expressed; the words around it may change, these may not.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    # a pull is answered
    GRANTED = "granted"
    READER = "reader"
    # a pull waits
    NO_PARAMETERS = "no-parameters"
    WAITING_FOR_WORKERS = "waiting-for-workers"
    WAITING_FOR_ROUND = "waiting-for-round"
    WAITING_FOR_STEP = "waiting-for-step"
    NEXT_ROUND = "next-round"
    LAG = "lag"
    OWN_UPDATE = "own-update"
    MIN_VERSION = "min-version"
    SWITCHING = "switching"
    # a stage waits for the others of its replica: at the join, and with its part of a push
    WAITING_FOR_STAGES = "waiting-for-stages"
    # a parked request ends without an answer
    REPLACED = "replaced"
    BARRIER = "barrier"
    # a push is taken
    ON_ARRIVAL = "on-arrival"
    IN_ROUND = "in-round"
    SKIPPED = "skipped"
    REPEATED = "repeated"
    ROUND_CLOSED = "round-closed"
    # an accepted update is in no version: the arithmetic of its step failed, its round had too few for its rule
    STEP_FAILED = "step-failed"
    TOO_FEW_UPDATES = "too-few-updates"
    # an incarnation ends
    LEFT = "left"
    LEASE_EXPIRED = "lease-expired"
    ITERATION_TOO_LONG = "iteration-too-long"
    NEW_SESSION = "new-session"
    # the version that a replica was granted is no longer there for the stage that asks for it
    GRANT_LOST = "grant-lost"
    # too many of its updates were refused, or an admin has said so
    QUARANTINED = "quarantined"
