from __future__ import annotations

import pytest

from leeway.protocol.membership import Departed
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.effects import (
    Accepted,
    Adopt,
    Advanced,
    Answered,
    Apply,
    Began,
    Contribution,
    Drop,
    Ended,
    Finished,
    Forgotten,
    Initialize,
    Over,
    Parked,
    Pin,
    Quarantined,
    Released,
    RoundClosed,
    RoundOpened,
    SwitchBegun,
    Switched,
    WaitingFor,
)

W0, W1 = Contribution("w0", 4, (1, 2)), Contribution("w1", 8, (3,))
SPECS = tuple(TensorSpec(name, (3,), "float32", Kind.TRAINABLE) for name in ("w", "b"))


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (Answered(1, Departed("w0")), "w0 has left"),
        (Parked(1, "g", "w0", 1, Reason.LAG, "w0 leads w1 by 2 > 1"), "park w0#1: w0 leads w1 by 2 > 1"),
        (Parked(1, "g", None, 0, Reason.MIN_VERSION, "version 2 is not out"), "park reader: version 2 is not out"),
        (Parked(1, "g", "r0", 2, Reason.LAG, "r0 leads", (), 1), "park r0/1#2: r0 leads"),
        (Parked(1, None, "r0", 0, Reason.WAITING_FOR_STAGES, "r0 waits", (), 1), "park r0/1: r0 waits"),
        (Began("r0", 2, 4), "began r0#2 of 4 stages"),
        (Forgotten("r0", 1), "forgotten r0/1"),
        (Quarantined("w0", "too large"), "quarantine w0: too large"),
        (Released("w0"), "release w0"),
        (Pin("g", (3, 5)), "keep g v3 v5"),
        (Pin("g", ()), "keep g nothing"),
        (Accepted(1, "g", "w0", 3, Disposition.HELD, Reason.IN_ROUND), "accept g w0@3: held"),
        (Accepted(1, "g", "w0", 3, None, Reason.ON_ARRIVAL), "accept g w0@3: on arrival"),
        (Advanced("g", "w0", 4), "advance g w0@4"),
        (WaitingFor("g", ("w0", "w1"), 4), "waiting for g w0,w1 until 4"),
        (WaitingFor("g", (), 0), "waiting for g nobody"),
        (Apply("default", 3, UpdateKind.GRADIENT, (W0,), aggregated=False, live=2), "apply w0x4 -> default v3"),
        (Apply("a", 3, UpdateKind.DELTA, (W0, W1), aggregated=True, live=2), "aggregate of w0x4 w1x8 -> a v3"),
        (Initialize("default", 1, 2, SPECS), "initialize default v1 w,b"),
        (Adopt("default", 2, SPECS, {"w": "module.w", "b": "b"}), "adopt default v2 module.w as w"),
        (Adopt("default", 2, SPECS, {"w": "w", "b": "b"}), "adopt default v2 as the model has it"),
        (Drop((3, 4)), "drop 3,4"),
        (Began("w0", 2), "began w0#2"),
        (Ended("w0", 2, Reason.LEFT, "w0#2 left"), "ended w0#2: w0#2 left"),
        (RoundOpened("default", 4, ("w0", "w1")), "round 4 opens: w0,w1"),
        (RoundClosed("default", 4, ("w0", "w1"), 12), "round 4 closes: w0,w1 (12 samples)"),
        (RoundClosed("default", 4, (), 0), "round 4 closes: nobody (0 samples)"),
        (RoundClosed("default", 4, ("w0",), 8, 5), "round 4 closes: w0 (8 samples), too few: 5 updates are needed"),
        (SwitchBegun("default", PolicyTerms("sync"), 9, ("w0",)), "switching default to sync from clock 9"),
        (Switched("default", PolicyTerms("ssp", 3), 9), "switched default to ssp(3) after v9"),
        (Switched("default", PolicyTerms("sync"), 9), "switched default to sync after v9"),
        (Over("the time is up"), "over: the time is up"),
        (Finished(), "finished"),
    ],
)
def test_effects_read_well(effect, words):
    assert str(effect) == words
