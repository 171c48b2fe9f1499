"""Where things are: the paths and header names of the HTTP surface, once for both sides."""

from __future__ import annotations

from typing import Final

WORKERS: Final = "/v1/workers"
WORKER: Final = "/v1/workers/{rank}"
LEASE: Final = "/v1/workers/{rank}/lease"
PARAMS: Final = "/v1/params"
UPDATES: Final = "/v1/updates"
BARRIER: Final = "/v1/barriers/{name}"
POLICY: Final = "/v1/policy"
PREVIEW: Final = "/v1/policy/preview"
OPTIMIZER: Final = "/v1/optimizer"
HANDOVERS: Final = "/v1/handovers"
STATUS: Final = "/v1/status"
EVENTS: Final = "/v1/events"
CHECKPOINTS: Final = "/v1/checkpoints"
SESSION: Final = "/v1/session"
QUARANTINE: Final = "/v1/quarantine/{rank}"
METRICS: Final = "/metrics"
LIVE: Final = "/livez"
READY: Final = "/readyz"
OPENAPI: Final = "/openapi.yaml"
PAGE: Final = "/"
PAGE_FILE: Final = "/page/{file}"

FRAME: Final = "application/vnd.leeway.frame"
SAFETENSORS: Final = "application/vnd.safetensors"
NPY: Final = "application/x-npy"
PROBLEM: Final = "application/problem+json"
EVENT_STREAM: Final = "text/event-stream"

# Facts about an answer that has no body of its own (204, 304), as compact JSON.
GRANT_HEADER: Final = "Leeway-Grant"
REASON_HEADER: Final = "Leeway-Reason"
