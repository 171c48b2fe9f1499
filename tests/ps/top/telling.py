"""A server that tells what it is told to tell, over real HTTP, and what a run's state looks like.

The one rule: each connection gets the next script, the last one again and again; a script is bytes to send and what to
do after them.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

START = 1_795_227_604.0


def message(event, data, number=None):
    numbered = "" if number is None else f"id: {number}\n"
    return f"event: {event}\n{numbered}data: {json.dumps(data)}\n\n".encode()


def worker(rank, clock, lag=0, state="computing", *, waited=0.0, loss=None, why=None, incarnation=1):
    progress = {"clock": clock, "lag": lag, "state": state, "waiting_seconds": waited, "held_seconds": 0.0}
    if why:
        progress["why"] = why
    reported = {} if loss is None else {"loss": loss}
    return {"rank": rank, "incarnation": incarnation, "groups": {"default": progress}, "reported": reported}


def leads(rank, other, lag, bound):
    return {"reason": "lag", "detail": f"{rank} leads {other} by {lag} > {bound}", "waiting_for": [other]}


def status(*workers, seconds=10.0, steps=100, updates=100, staleness=(), mode="ssp", bound=3, **changes):
    counts = [*staleness, *[0] * (11 - len(staleness))]
    group = {
        "policy": {"group": "default", "mode": mode, "staleness": bound, "switching_at": None},
        "version": steps + 1,
        "min_clock": 0,
        "round": {"number": 0, "state": "waiting", "waits_for": []},
        "readers_waiting": 0,
        "steps": steps,
        "updates": updates,
        "staleness": {"bounds": [0, 1, 2, 3, 5, 8, 13, 21, 34, 55], "counts": counts},
    }
    return {
        "epoch": 17,
        "until": None,
        "stopping": False,
        "over": None,
        "finished": False,
        "groups": {"default": group},
        "workers": list(workers),
        "barriers": {},
        "uptime_seconds": seconds,
        "program": {"version": "0.1.0"},
        "time": START + seconds,
    } | changes


def point(seconds, loss=None, updates=0):
    figures = {} if loss is None else {"loss": loss}
    group = {"version": updates + 1, "updates": updates, "min_clock": 0, "figures": figures}
    return {"seconds": seconds, "groups": {"default": group}}


def decision(number, kind, detail, rank=None):
    told = {"id": number, "seconds": number, "time": START + number, "kind": kind, "group": None, "rank": rank}
    return told | {"reason": None, "detail": detail}


class Script:
    """What one connection gets: `head` and `body`, and then, unless it `ends`, silence until the server does."""

    def __init__(self, body=b"", *, ends=False, code=200, kind="text/event-stream"):
        self.body, self.ends, self.code, self.kind = body, ends, code, kind


class Telling:
    def __init__(self, scripts):
        self.scripts = list(scripts)
        self.asked = []
        self.over = threading.Event()

    def answer(self, handler):
        self.asked.append((handler.path, handler.headers.get("Last-Event-ID")))
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        handler.send_response(script.code)
        handler.send_header("Content-Type", script.kind)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(script.body)
        handler.wfile.flush()
        if not script.ends:
            self.over.wait()


@contextmanager
def telling(*scripts):
    """A server with these scripts; `url` and what it was asked."""
    told = Telling(scripts)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            told.answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        told.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            told.over.set()
            server.shutdown()
            thread.join()
