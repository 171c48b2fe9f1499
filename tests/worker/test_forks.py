"""A process that holds a session and forks: children that end in every way, and that use what is not theirs."""

import os
import subprocess
import sys

import pytest

from leeway.worker.client import Client
from leeway.worker.forks import Home
from tests.worker.test_against_server import ROOT, environment, serving

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]

PARENT = """
import os, sys
import torch
import leeway

def child(do):
    pid = os.fork()
    if pid == 0:
        do()
        os._exit(99)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

def step():
    model(torch.ones(1, 2)).sum().backward()
    outcome = session.step(samples=1)
    print(outcome.disposition, outcome.clock, flush=True)

model = torch.nn.Linear(2, 2)
session = leeway.connect(sys.argv[1], "parent")
session.attach(model)
step()
"""

ENDINGS = """
def raising():
    raise ValueError("the child's own")
def returning():
    import atexit, gc
    atexit._run_exitfuncs()
    sys.exit(5)
child(lambda: sys.exit(3))
child(lambda: os._exit(4))
child(raising)
child(returning)
child(session.close)
step()
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=print, args=("hello",))
process.start()
process.join()
print(process.exitcode, flush=True)
data = torch.utils.data.DataLoader(torch.arange(8.0), batch_size=2, num_workers=2, multiprocessing_context="fork")
print(sum(float(batch.sum()) for batch in data), flush=True)
step()
session.close()
print("done", flush=True)
"""

USES = """
def use(call):
    def do():
        try:
            call()
        except RuntimeError as error:
            pids = f"connected in process {os.getppid()}, and this is process {os.getpid()}" in str(error)
            print("call leeway.connect in the child" in str(error) and pids, flush=True)
            os._exit(0)
    return do
for call in (step, session.pull, session.skip, lambda: session.barrier("x"), session.client.status):
    child(use(call))
child(session.close)
def connect():
    with leeway.connect(sys.argv[1], "child") as own:
        other = torch.nn.Linear(2, 2)
        own.attach(other)
        other(torch.ones(1, 2)).sum().backward()
        print(own.step(samples=1).disposition, flush=True)
    os._exit(0)
child(connect)
step()
session.close()
"""


@pytest.fixture(scope="module")
def url():
    with serving("--mode", "async") as (_, url):
        yield url


def run(script, url):
    command = [sys.executable, "-c", PARENT + script, url]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n"), done.stderr


def test_children_end_as_they_will_and_the_parent_goes_on(url):
    said, errors = run(ENDINGS, url)
    first = int(said[0].split()[1])
    assert said == [
        f"applied {first}",
        *("3", "4", "1", "5", "99"),
        f"applied {first + 1}",
        *("hello", "0", "28.0"),
        f"applied {first + 2}",
        "done",
        "",
    ]
    assert errors.count("Traceback") == 1, "the one of the child that raised"


def test_a_child_is_told_at_once_to_connect_and_can(url):
    said, errors = run(USES, url)
    first = int(said[0].split()[1])
    assert said[1:] == [*(["True", "0"] * 5), "99", "applied", "0", f"applied {first + 1}", ""]
    assert errors == ""


def test_the_home_of_a_thing(monkeypatch):
    home = Home("the worker w0")
    home.check()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert not home.here
    with pytest.raises(RuntimeError, match=r"^the worker w0 was connected in process \d+, and this is process 1"):
        home.check()


async def test_the_asynchronous_client_too(server, monkeypatch):
    server.then(server.joined())
    client = Client(server.url, "w0")
    await client.join()
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: 1)
        with pytest.raises(RuntimeError, match="forked"):
            await client.pull()
        await client.close()
    assert not client._link.channel._http.closed, "what waits on the connections is shared with the parent"
    server.then(server.granted())
    assert await client.pull()
    server.then(server.refused("left", last={}))
    await client.close()
