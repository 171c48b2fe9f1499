"""Leeway: a parameter server that lets fast workers run ahead, but only as far as you allow.

    import leeway

    session = leeway.connect("http://localhost:8080")
    session.attach(model)
    while not session.finished:
        loss(model(x), y).backward()
        session.step(samples=len(x))

What this module names is all there is to import; what lies below may move. Importing it is cheap: torch and aiohttp
come with the first use of `connect` or `Client`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leeway.errors import (
    CheckpointError,
    DataError,
    HistoryError,
    LeewayError,
    ServerLost,
    SessionClosed,
    SettingError,
    TaskError,
    WireError,
)

if TYPE_CHECKING:
    from leeway.protocol.pushes import Disposition, UpdateKind
    from leeway.protocol.reasons import Reason
    from leeway.protocol.spans import Layout
    from leeway.protocol.tensors import Kind, TensorSpec
    from leeway.release import __version__
    from leeway.transport.channel import Tensors
    from leeway.worker.client import Client
    from leeway.worker.connecting import connect, wrap
    from leeway.worker.sampler import Sampler
    from leeway.worker.session.states import Outcome
    from leeway.worker.train.data.partition import RandomSampling, ShuffleAndSplit
    from leeway.worker.train.tasks.task import task
    from leeway.worker.training import TrainingSession

__all__ = [
    "CheckpointError",
    "Client",
    "DataError",
    "Disposition",
    "HistoryError",
    "Kind",
    "Layout",
    "LeewayError",
    "Outcome",
    "RandomSampling",
    "Reason",
    "Sampler",
    "ServerLost",
    "SessionClosed",
    "SettingError",
    "ShuffleAndSplit",
    "TaskError",
    "TensorSpec",
    "Tensors",
    "TrainingSession",
    "UpdateKind",
    "WireError",
    "__version__",
    "connect",
    "task",
    "wrap",
]

# Looked up at the first use (PEP 562): every import of anything below comes through this file.
_HOMES = {
    "Client": "leeway.worker.client",
    "Disposition": "leeway.protocol.pushes",
    "Kind": "leeway.protocol.tensors",
    "Layout": "leeway.protocol.spans",
    "Outcome": "leeway.worker.session.states",
    "RandomSampling": "leeway.worker.train.data.partition",
    "Reason": "leeway.protocol.reasons",
    "Sampler": "leeway.worker.sampler",
    "ShuffleAndSplit": "leeway.worker.train.data.partition",
    "TensorSpec": "leeway.protocol.tensors",
    "Tensors": "leeway.transport.channel",
    "TrainingSession": "leeway.worker.training",
    "UpdateKind": "leeway.protocol.pushes",
    "__version__": "leeway.release",
    "connect": "leeway.worker.connecting",
    "task": "leeway.worker.train.tasks.task",
    "wrap": "leeway.worker.connecting",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
