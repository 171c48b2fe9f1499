"""One process that connects several times: which rank is taken, and what is let go of."""

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from urllib.request import urlopen

import pytest
from aiohttp import web

import leeway
from leeway.worker import holders
from tests.worker.test_against_server import ROOT, environment, serving


def joined(*given, **named):
    """A session whose worker has joined."""
    session = leeway.connect(*given, **named)
    try:
        session.join()
    except BaseException:
        session.close()
        raise
    return session


def left():
    return web.json_response({"rank": "w0"})


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "leeway"]


def test_a_rank_that_this_process_holds_is_not_taken_from_itself(far_server, monkeypatch):
    monkeypatch.setenv("PS_RANK", "w0")
    far_server.then(far_server.joined())
    with joined(far_server.url) as first:
        for again in ({}, {"rank": "w0"}, {"group": "other"}):
            with pytest.raises(ValueError, match=r"already holds rank w0 at http://127.*connect\(rank=\.\.\.\)"):
                joined(far_server.url + "/", **again)
        assert not first.finished
        far_server.then(far_server.joined(), left())
        with joined(far_server.url, "w1"):
            pass
        far_server.then(left())
    far_server.then(far_server.joined(), left())
    joined(far_server.url).close()
    joining, goodbye = "POST /v1/workers", "DELETE /v1/workers/w"
    lines = [seen.line for seen in far_server.seen]
    assert lines == [joining, joining, f"{goodbye}1", f"{goodbye}0", joining, f"{goodbye}0"]


def test_one_that_has_ended_holds_nothing(far_server):
    far_server.then(far_server.joined(clock=5, until=5), left(), far_server.joined(), left())
    first = joined(far_server.url, "w0")
    first.client.pull()
    assert first.finished
    joined(far_server.url, "w0").close()
    first.close()


def test_one_that_could_not_join_holds_nothing(far_server):
    far_server.then(far_server.refused("unknown-group"), far_server.joined(), left())
    with pytest.raises(leeway.WireError):
        joined(far_server.url, "w0")
    joined(far_server.url, "w0").close()


@pytest.mark.parametrize("circle", [False, True])
def test_a_session_that_nobody_refers_to_leaves_and_holds_nothing(far_server, circle):
    far_server.then(far_server.joined(), left())
    session = joined(far_server.url, "w0")
    if circle:
        session.itself = session
    gone = weakref.ref(session)
    (thread,) = threads()
    gc.disable()
    try:
        del session
        if circle:
            assert gone() is not None
            # Who connects anew looks for garbage first. The goodbye of the old one may come before or after the join.
            far_server.script[:] = []
            far_server.then(*[lambda request: answer(request, far_server)] * 4)
            joined(far_server.url, "w0").close()
            thread.join(10)
            far_server.script[:] = []
        assert gone() is None
    finally:
        gc.enable()
    thread.join(10)
    assert threads() == []
    assert "DELETE /v1/workers/w0" in [seen.line for seen in far_server.seen]


async def answer(request, server):
    return left() if request.method == "DELETE" else server.joined()


def test_what_a_forked_child_has_of_its_parents_holds_nothing_there(far_server, monkeypatch):
    far_server.then(far_server.joined(), far_server.joined(), left(), left())
    with joined(far_server.url, "w0") as session:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            joined(far_server.url, "w0").close()
        assert not session.finished


def test_of_two_threads_that_connect_at_once_one_holds_the_rank(far_server, monkeypatch):
    """Both have made their client before either looks who was there."""
    both, errors, sessions = threading.Barrier(2, timeout=10), [], []
    make_room = holders._make_room

    def together(*arguments):
        both.wait()
        make_room(*arguments)

    def connect():
        try:
            sessions.append(joined(far_server.url, "w0"))
        except ValueError as error:
            errors.append(str(error))

    monkeypatch.setattr(holders, "_make_room", together)
    far_server.then(far_server.joined(), left())
    users = [threading.Thread(target=connect) for _ in range(2)]
    for user in users:
        user.start()
    for user in users:
        user.join(10)
    assert (len(errors), len(sessions)) == (1, 1)
    sessions[0].close()
    assert threads() == []


CONSOLE = """
import code, sys, os
cells = sys.stdin.read().split("----\\n")
console = code.InteractiveConsole()
def read(prompt=""):
    if not lines:
        raise EOFError
    return lines.pop(0)
lines = [line for cell in cells for line in cell.split("\\n")]
console.raw_input = read
console.interact(banner="", exitmsg="")
"""

CELLS = """
import leeway, torch, threading
model = torch.nn.Linear(2, 2)
----
session = leeway.connect({url!r}, "notebook")
session.attach(model)
----
model(torch.ones(1, 2)).sum().backward()
print("first", session.step(samples=1).disposition)
older = session
----
session = leeway.connect({url!r}, "notebook")
session.attach(model)
----
model(torch.ones(1, 2)).sum().backward()
print("second", session.step(samples=1).disposition)
----
try:
    older.pull()
except ValueError as error:
    print(error)

----
print("threads", len([one for one in threading.enumerate() if one.name == "leeway"]))
"""


@pytest.mark.e2e
def test_a_cell_that_runs_again_takes_the_place_of_what_it_made_before():
    with serving("--mode", "async") as (_, url):
        done = subprocess.run(
            [sys.executable, "-c", CONSOLE],
            input=CELLS.format(url=url),
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    said = [line for line in done.stdout.split("\n") if "[warning" not in line]
    assert said == [
        "first applied",
        "second applied",
        "this session is closed: rank notebook was connected anew in this process; give rank=... to have two",
        "threads 1",
        "",
    ]
    assert "connected anew: the session before is closed" in done.stderr + done.stdout


SCRIPT = """
import sys, time, leeway
def use():
    session = leeway.connect(sys.argv[1], "w0")
use()
use()
print("end", flush=True)
"""


@pytest.mark.e2e
def test_a_script_that_forgets_its_sessions_leaves_in_good_order():
    with serving("--mode", "async", "--lease", "600") as (_, url):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, url],
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
        assert live(url) == []


def live(url):
    with urlopen(url + "/v1/status") as reply:
        return [worker["rank"] for worker in json.load(reply)["workers"]]


# What an own script's process shows.

TELLING = """
import sys, leeway
if sys.argv[1] == "closed":
    import os
    os.close(2)
try:
    leeway.connect("http://127.0.0.1:9", "w0", patience_seconds=0.0)
except leeway.ServerLost:
    print("lost")
"""


@pytest.mark.parametrize("stderr", ["open", "closed"])
def test_log_lines_go_to_stderr_and_leave_stdout_alone(stderr):
    ran = subprocess.run([sys.executable, "-c", TELLING, stderr], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "lost\n"), ran.stderr
    assert ("waiting for the server" in ran.stderr) is (stderr == "open")
