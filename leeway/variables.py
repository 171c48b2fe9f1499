"""Environment variables that look like a setting of ours and are none: a slip of the pen that would count for nothing.

The one rule: a name that is a setting of any command is right in every process, for the environment is inherited.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PREFIX: Final = "PS_"

# Of all commands. Neither side imports the other, so they are listed; a test compares this with the commands.
_SETTINGS: Final = """
    ACCUMULATE ADVERTISE AGGREGATION ALLOWED_HOST ALPHA BATCH_SIZE BETA1 BETA2 CENTERED CHECKPOINT_EVERY CHECKPOINT_KEEP
    CLIP_NORM CONFIG CUT DATA_DIR DECAY_VECTORS DELTA_SCALE DEVICE EPS EVALUATE_EVERY FILES GRACE HISTORY HOST INIT
    INSECURE LEASE LOCAL_LR LOCAL_STEPS LOG_FORMAT LOG_LEVEL LR LR_GAMMA LR_SCHEDULE MAX_BODY MAX_BYTES_PER_SECOND
    MAX_ITERATION_SECONDS MAX_REQUESTS_PER_SECOND MAX_UPDATE_NORM MAX_UPDATE_NORM_RATIO METRICS_HOST METRICS_INSECURE
    METRICS_PORT MICRO_BATCHES MIN_LR MODE MODEL MOMENTUM NON_FINITE OPTIMIZER PACE PARTITION PORT QUARANTINE_AFTER
    QUORUM RANK RECOMPUTE RESUME RHO SCHEDULE SCHEDULE_STEPS SEED SERVER SLOW SLOW_TAIL SLOW_TURNS STAGE STAGES
    STAGE_HOST STAGE_PORT STALENESS START_TOGETHER STATE_DIR STEPS TLS_CA TLS_CERT TLS_CLIENT_CA TLS_KEY TOKENS
    TOKEN_FILE UNTIL UNTIL_FLAT UNTIL_METRIC UNTIL_SECONDS WARMUP WEIGHT WEIGHT_DECAY WIRE_DTYPE WORKERS
"""
SETTINGS: Final = frozenset(_SETTINGS.split())

# How much alike two names are, of 1, where one may be a slip of the other: MOD and MODE are. Kubernetes gives a service
# called `ps` or `ps-server` variables such as PS_SERVICE_HOST and PS_SERVER_PORT, which are none.
_NEAR: Final = 0.8


def misspelled(environ: Mapping[str, str], own: Collection[str]) -> dict[str, str]:
    """The variables that are no setting of any command, each with its nearest, where that is one of `own`."""
    found = {}
    for name in sorted(environ):
        word = name.removeprefix(PREFIX)
        if word == name or word in SETTINGS or not environ[name]:
            continue
        near = difflib.get_close_matches(word, SETTINGS, n=1, cutoff=_NEAR)
        if near and (nearest := PREFIX + near[0]) in own:
            found[name] = nearest
    return found
