"""What a trace must be, whatever run it is of: the trace event format as a JSON schema, and what holds beyond it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jsonschema

_NUMBER = {"type": "integer", "minimum": 0}
_NAMED = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
_PLACED = {
    "type": "object",
    "required": ["sort_index"],
    "properties": {"sort_index": {"type": "integer"}},
    "additionalProperties": False,
}


def _event(phase: str, name: dict[str, Any], args: dict[str, Any], **more: dict[str, Any]) -> dict[str, Any]:
    properties = {"ph": {"const": phase}, "name": name, "args": args, "pid": {"type": "integer", "minimum": 1}, **more}
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


_TEXT = {"type": "string", "minLength": 1}
_FACTS = {"type": "object"}
_THREAD = {"type": "integer", "minimum": 1}

# After "Trace Event Format": complete events, counters, instants and metadata in the JSON object form.
SCHEMA = {
    "type": "object",
    "required": ["traceEvents"],
    "additionalProperties": False,
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    _event("X", _TEXT, _FACTS, cat=_TEXT, ts=_NUMBER, dur=_NUMBER, tid=_THREAD),
                    _event(
                        "C",
                        _TEXT,
                        {"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}},
                        ts=_NUMBER,
                    ),
                    _event("i", _TEXT, _FACTS, cat=_TEXT, ts=_NUMBER, tid=_THREAD, s={"enum": ["g", "p", "t"]}),
                    _event("M", {"const": "process_name"}, _NAMED),
                    _event("M", {"const": "process_sort_index"}, _PLACED),
                    _event("M", {"const": "thread_name"}, _NAMED, tid=_THREAD),
                    _event("M", {"const": "thread_sort_index"}, _PLACED, tid=_THREAD),
                ]
            },
        },
    },
}


class Trace:
    """A trace that is as it must be, and its parts under their names."""

    def __init__(self, document: dict[str, Any]) -> None:
        jsonschema.validate(document, SCHEMA)
        self.events = document["traceEvents"]
        self.processes = {one["pid"]: one["args"]["name"] for one in self.events if one["name"] == "process_name"}
        self.threads = {
            (one["pid"], one["tid"]): one["args"]["name"] for one in self.events if one["name"] == "thread_name"
        }
        for event in self.events:
            assert event["pid"] in self.processes
            assert "tid" not in event or (event["pid"], event["tid"]) in self.threads
        tracks: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for event in self.events:
            if event["ph"] == "X":
                tracks.setdefault((event["pid"], event["tid"]), []).append(event)
        for slices in tracks.values():
            # In the order in which they were drawn, which then is that of time.
            for one, following in pairwise(slices):
                assert one["ts"] + one["dur"] <= following["ts"], (one, following)

    def tracks(self, process: str) -> list[str]:
        """In the order in which they are shown."""
        return [name for (number, _), name in sorted(self.threads.items()) if self.processes[number] == process]

    def slices(self, process: str, thread: str, name: str | None = None) -> list[dict[str, Any]]:
        return [
            one
            for one in self.events
            if one["ph"] == "X"
            and (self.processes[one["pid"]], self.threads[one["pid"], one["tid"]]) == (process, thread)
            and name in (None, one["name"])
        ]

    def counter(self, process: str, name: str) -> list[tuple[int, float]]:
        """Moments in microseconds, and values."""
        return [
            (one["ts"], *one["args"].values())
            for one in self.events
            if one["ph"] == "C" and (self.processes[one["pid"]], one["name"]) == (process, name)
        ]

    def marks(self) -> list[tuple[int, str]]:
        return [(one["ts"], one["name"]) for one in self.events if one["ph"] == "i"]
