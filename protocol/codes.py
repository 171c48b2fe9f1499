"""The stable names of everything that can go wrong on the wire, each with its HTTP status.

The errors themselves are in `leeway.errors`: a `WireError` carries one of these codes.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Stable names of errors. Part of the contract: never rename one, never reuse one."""

    MALFORMED_FRAME = "malformed-frame"
    MALFORMED_REQUEST = "malformed-request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    FOREIGN = "foreign"
    QUARANTINED = "quarantined"
    UNKNOWN_NEIGHBOUR = "unknown-neighbour"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"
    OLD_EPOCH = "old-epoch"
    NOT_JOINED = "not-joined"
    SUPERSEDED = "superseded"
    NOT_GRANTED = "not-granted"
    WRONG_CLOCK = "wrong-clock"
    FENCED = "fenced"
    STAGE_REPLACED = "stage-replaced"
    STAGES_DIFFER = "stages-differ"
    SCHEMA_CONFLICT = "schema-conflict"
    SCHEMA_CLOSED = "schema-closed"
    SCHEMA_TOO_LARGE = "schema-too-large"
    NO_STATE_DIR = "no-state-dir"
    DEADLOCK = "deadlock"
    EVICTED = "evicted"
    STAGE_LOST = "stage-lost"
    LEFT = "left"
    FINISHED = "finished"
    BODY_TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA = "unsupported-media"
    UNKNOWN_TENSOR = "unknown-tensor"
    WRONG_TENSOR = "wrong-tensor"
    DUPLICATE_TENSOR = "duplicate-tensor"
    NON_FINITE = "non-finite"
    UPDATE_TOO_LARGE = "update-too-large"
    UNKNOWN_GROUP = "unknown-group"
    INCONSISTENT_PARTS = "inconsistent-parts"
    INVALID_VALUE = "invalid-value"
    OVER_QUOTA = "over-quota"
    STOPPING = "stopping"
    BUSY = "busy"
    INTERNAL = "internal"
    STORAGE_FAILED = "storage-failed"


STATUS: dict[Code, int] = {
    Code.MALFORMED_FRAME: 400,
    Code.MALFORMED_REQUEST: 400,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.FOREIGN: 403,
    Code.QUARANTINED: 403,
    Code.UNKNOWN_NEIGHBOUR: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.NOT_ACCEPTABLE: 406,
    Code.OLD_EPOCH: 409,
    Code.NOT_JOINED: 409,
    Code.SUPERSEDED: 409,
    Code.NOT_GRANTED: 409,
    Code.WRONG_CLOCK: 409,
    Code.FENCED: 409,
    Code.STAGE_REPLACED: 409,
    Code.STAGES_DIFFER: 409,
    Code.SCHEMA_CONFLICT: 409,
    Code.SCHEMA_CLOSED: 409,
    Code.NO_STATE_DIR: 409,
    Code.DEADLOCK: 409,
    Code.EVICTED: 410,
    Code.STAGE_LOST: 410,
    Code.LEFT: 410,
    Code.FINISHED: 410,
    Code.BODY_TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA: 415,
    Code.UNKNOWN_TENSOR: 422,
    Code.WRONG_TENSOR: 422,
    Code.DUPLICATE_TENSOR: 422,
    Code.NON_FINITE: 422,
    Code.UPDATE_TOO_LARGE: 422,
    Code.UNKNOWN_GROUP: 422,
    Code.INCONSISTENT_PARTS: 422,
    Code.INVALID_VALUE: 422,
    Code.SCHEMA_TOO_LARGE: 422,
    Code.OVER_QUOTA: 429,
    Code.STOPPING: 503,
    Code.BUSY: 503,
    Code.INTERNAL: 500,
    Code.STORAGE_FAILED: 507,
}
