"""Runs that never were, as `/v1/events` would tell them, and a server that tells them to the page.

The one rule: what is told has the shape that the server's documents have; the numbers and names are whatever a case
wants to see on the screen. Time is in the documents, so half a minute of a run is told in one piece.
"""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

from leeway.ps.server.http.page import CONTENT_TYPES
from tests.end_to_end.commands import ROOT

START = 1_795_227_604.0
BOUNDS = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55]
LEASE_SECONDS = 30.0

PHASES = ("empty", "begun", "during", "switched", "gone", "finished", "stopping", "lost")


@dataclass(frozen=True)
class Case:
    """One picture. `slow`: the rank that the others wait for; `scale` multiplies counts, `lead` is what async has.

    `stages`: of each worker, where it is a replica; `forming`: replicas that wait for stages.
    """

    workers: int = 12
    mode: str = "ssp"
    phase: str = "during"
    losses: tuple = (2.3, 0.4)
    long_names: bool = False
    scale: int = 1
    lead: int = 90
    bound: int = 3
    seconds: float = 95.0
    figures: tuple = ("loss",)
    silent: bool = False
    stages: int = 0
    forming: int = 0

    def __str__(self):
        told = {name: value for name, value in vars(self).items() if value != getattr(_PLAIN, name)}
        more = {name: value for name, value in told.items() if name not in ("workers", "mode", "phase")}
        words = [f"{name}={value}".replace(" ", "") for name, value in more.items()]
        return "-".join([str(self.workers), self.mode, self.phase, *words])

    @property
    def slow(self):
        """In natural order it stands far down."""
        return self.rank(self.workers * 3 // 4)

    def rank(self, number):
        return f"worker-{'x' * 50}-{number:06}" if self.long_names else f"w{number}"


_PLAIN = Case()


def messages(case):
    """The whole stream of a case: `(event, data, id or None)`."""
    # Two states before the newest one: what is measured is a difference. After a switch, next to nothing is.
    moments = {"begun": (0.0,), "switched": (30.0, 20.0, 12.0, 0.3, 0.0)}.get(case.phase, (30.0, 20.0, 10.0, 2.0, 0.0))
    told = [("status", _status(case, case.seconds - ago, ago), None) for ago in moments]
    told.insert(1, ("curve", {"points": _points(case)}, None))
    told += [("decision", decision, decision["id"]) for decision in _decisions(case)]
    return told


def _status(case, seconds, ago):
    gone = case.phase in ("empty", "gone", "finished", "stopping") and (ago == 0 or case.phase == "empty")
    mode, bound = case.mode, case.bound if case.mode == "ssp" else None
    if case.phase == "switched" and ago > 0.3:
        mode, bound = "async", None
    workers = [] if gone else [_worker(case, number, seconds, mode) for number in range(case.workers)]
    begun = case.phase != "empty"
    steps = int(seconds * 6.5) * case.scale if begun else 0
    counts = [700, 250, 49, 12, 9, 6, 4, 3, 2, 1, 1] if case.workers > 2 else [70, 20]
    group = {
        "policy": {"group": "default", "mode": mode, "staleness": bound, "switching_at": None},
        "until": None,
        "version": steps,
        "min_clock": 640 * case.scale if begun else 0,
        "tensors": 4,
        "round": {"number": 640 * case.scale, "state": "open", "waits_for": []},
        "readers_waiting": 0,
        "live_versions": 2,
        "aggregation": "mean",
        "learning_rate": 0.05,
        "steps": steps,
        "updates": steps * (case.workers if mode == "sync" else 1),
        "rounds_without_step": 0,
        "rounds_since_step": 0,
        "staleness": {
            "bounds": BOUNDS,
            "counts": [count * case.scale if begun else 0 for count in counts] + [0] * (11 - len(counts)),
        },
        "gradient_norm": 1.5,
    }
    return {
        "epoch": 1_795_227_219_425,
        "until": 1000 * case.scale if case.phase in ("during", "finished") else None,
        "stopping": case.phase in ("finished", "stopping") and ago == 0,
        "over": None,
        "finished": case.phase == "finished" and ago == 0,
        "groups": {"default": group},
        "live_workers": len(workers),
        "forming": [_forming(case, number) for number in range(case.forming)],
        "workers": workers,
        "barriers": {},
        "quarantine": [],
        "quarantined": 0,
        "insecure": False,
        "uptime_seconds": seconds,
        "program": {"version": "0.1.0"},
        "time": START + seconds,
    }


def _worker(case, number, seconds, mode):
    rank, base = case.rank(number), 640 * case.scale
    slow = rank == case.slow
    state, why, lag = "computing", None, 0
    if case.phase == "begun":
        base, lag = 0, 0
    elif slow or case.workers == 1:
        pass
    elif mode == "ssp":
        lag = case.bound + 1 if number % 3 else number % (case.bound + 1)
        if lag > case.bound:
            state = "waiting"
            why = _why("lag", f"{rank} leads {case.slow} by {lag} > {case.bound}", case.slow)
    elif mode == "sync":
        lag, state = 1, "waiting"
        why = _why("waiting-for-round", f"round {base} waits for {case.slow}", case.slow)
    else:
        lag = case.lead * number // case.workers
    if state == "computing" and number % 7 == 5:
        state = "idle"
    waited = seconds * (0.8 if state == "waiting" else 0.02)
    held = 0.0
    if slow and mode != "async":
        # After a switch it has just begun.
        held = max(0.0, seconds - case.seconds + 0.3) if case.phase == "switched" else seconds * 0.7 * case.scale
    progress = {"clock": base + lag, "lag": lag, "state": state, "waiting_seconds": waited, "held_seconds": held}
    progress |= {"late_updates": 0, "newest_late": False}
    if why:
        progress["why"] = why
    last = case.losses[-1]
    replica = {"stages": [_stage(case, stage, state) for stage in range(case.stages)], "holding": case.stages // 2}
    return (replica if case.stages else {}) | {
        "rank": rank,
        "incarnation": 1,
        "lease_left_seconds": 9.0 if case.silent and number == 1 else LEASE_SECONDS - 1,
        "groups": {"default": progress},
        "reported": {} if case.phase == "begun" else dict.fromkeys(case.figures, last),
    }


def _stage(case, stage, state):
    holds = stage == case.stages // 2
    waited = {"computed_seconds": 0.3 if holds else 0.16, "waited_seconds": 0.01 if holds else 0.15}
    if case.phase == "begun":
        waited = dict.fromkeys(waited)
    state = state if state != "waiting" else ("waiting", "pushed")[stage % 2]
    return {"stage": stage, "state": state, "lease_left_seconds": LEASE_SECONDS - 1} | waited


def _forming(case, number):
    stages = max(2, case.stages)
    return {"rank": case.rank(case.workers + number), "stages": stages, "missing": list(range(1, stages))}


def _why(reason, detail, whom):
    return {"reason": reason, "detail": detail, "waiting_for": [whom]}


def _points(case):
    if case.phase in ("empty", "begun"):
        return []
    end = case.seconds - (40.0 if case.phase in ("gone", "finished", "stopping") else 0.0)
    many = 80
    points = []
    for index in range(many):
        loss = case.losses[min(len(case.losses) - 1, index * len(case.losses) // many)]
        at = round(end * (index + 1) / many, 3)
        figures = dict.fromkeys(case.figures, loss)
        steps = int(at * 6.5) * case.scale
        group = {"version": steps, "updates": steps, "min_clock": index * 8 * case.scale, "figures": figures}
        points.append({"seconds": at, "groups": {"default": group}})
    return points


def _decisions(case):
    if case.phase == "empty":
        return []
    rows = [("joined", case.rank(number), None, "life 1 of this rank", None) for number in range(min(4, case.workers))]
    for number, (at, mode) in enumerate(((0.3, "sync"), (0.32, "ssp"), (0.6, "async"), (0.99, case.mode))):
        if case.phase in ("during", "switched"):
            rows.append(("switched", None, None, f"to {mode}, after version {number}", (at, mode)))
    rows.append(("waits", case.rank(0), "lag", f"{case.rank(0)} leads {case.slow} by 4 > 3", None))
    if case.phase == "gone":
        rows += [("ended", case.rank(number), "left", "it has left", None) for number in range(min(4, case.workers))]
    if case.phase in ("finished", "stopping"):
        rows.append((case.phase, None, None, "the server stops", None))
    told = []
    for number, (kind, rank, reason, detail, switch) in enumerate(rows, 1):
        seconds = case.seconds * switch[0] if switch else min(case.seconds, float(number))
        decision = {"id": number, "seconds": seconds, "time": START + seconds, "kind": kind, "group": None}
        told.append(decision | {"rank": rank, "reason": reason, "mode": switch and switch[1], "detail": detail})
    return told


def as_bytes(told):
    """Messages as a `text/event-stream`."""
    lines = []
    for event, data, number in told:
        numbered = "" if number is None else f"id: {number}\n"
        lines.append(f"event: {event}\n{numbered}data: {json.dumps(data, allow_nan=False)}\n\n")
    return "".join(lines).encode()


# Whoever looks on has every button that there is.
WHO = {"name": "boss", "rights": ["admin", "reader"], "token_asked_for": True}


@dataclass
class Telling:
    """Serves the page's own files, and to whoever asks for the events those of `case`."""

    case: Case = field(default_factory=Case)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answer(self, handler):
        path = handler.path.partition("?")[0]
        if path == "/v1/events":
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(as_bytes(messages(self.case)))
            handler.wfile.flush()
            over = self.over
            if self.case.phase not in ("finished", "stopping", "lost"):
                over.wait()
            handler.close_connection = True
            return
        if path == "/v1/session":
            content, content_type = json.dumps(WHO).encode(), "application/json"
        else:
            name = "index.html" if path == "/" else PurePosixPath(path).name
            file = ROOT / "ps" / "page" / name
            if file.suffix not in CONTENT_TYPES or not file.is_file():
                handler.send_error(404)
                return
            content, content_type = file.read_bytes(), CONTENT_TYPES[file.suffix]
        handler.send_response(200)
        handler.send_header("Content-Type", f"{content_type}; charset=utf-8")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def tell(self, case):
        """From now on this case; who was told another one is let go."""
        before, self.over = self.over, threading.Event()
        self.case = case
        before.set()


@contextmanager
def telling():
    """A server of made-up runs at its `url`."""
    told = Telling()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            told.answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            told.over.set()
            server.shutdown()
            thread.join()
