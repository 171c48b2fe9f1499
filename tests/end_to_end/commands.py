"""The commands as child processes of a test: started, listened to line by line, waited for, ended.

The one rule: everything is waited for with a deadline, and nothing outlives its `Commands`. A process that is late or
ends otherwise than expected fails the test with what it said.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load

from leeway.transport.credentials.credentials import NOTHING
from tests import linux

ROOT = Path(__file__).resolve().parents[2]
STAGED = Path(__file__).with_name("staged.py")
SMALL, CONVOLUTIONAL, NORMALIZED = (
    f"{Path(__file__).with_name('small.py')}:{name}" for name in ("Small", "Convolutional", "Normalized")
)

# Importing torch on a busy machine takes many seconds; a step takes none of it.
START_SECONDS = 90.0
RUN_SECONDS = 150.0


class Process:
    """A running command. Its lines are kept as they come, those of stderr among those of stdout."""

    def __init__(self, name, command, environment, folder):
        inherited = {variable: value for variable, value in os.environ.items() if not variable.startswith("PS_")}
        # Whatever started the tests, the workers are told their ranks here alone.
        for variable in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "JOB_COMPLETION_INDEX"):
            inherited.pop(variable, None)
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "*", "PS_LOG_FORMAT": "json"}
        self.name = name
        self.lines = []
        self.errors = []
        self._reading = 2
        self._heard = threading.Condition()
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=inherited | own | environment,
            cwd=folder,
            text=True,
            process_group=0,
            preexec_fn=linux.end_with_parent,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kept), daemon=True)
            for stream, kept in ((self.popen.stdout, self.lines), (self.popen.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, kept):
        for line in stream:
            with self._heard:
                kept.append(line.rstrip("\n"))
                self._heard.notify_all()
        stream.close()
        with self._heard:
            self._reading -= 1
            self._heard.notify_all()

    @property
    def pid(self):
        return self.popen.pid

    @property
    def said(self):
        return "\n".join([*self.lines, *self.errors])

    def address(self):
        """The line on stdout that is its address; the log has it too, and may be heard first."""
        return self._hear(
            "an address", lambda: [line for line in self.lines if line.startswith(("http://", "https://"))]
        )

    def hear(self, text, seconds=START_SECONDS):
        """Wait for a line with this text, on stdout or stderr, and return it."""
        return self._hear(repr(text), lambda: [line for line in (*self.lines, *self.errors) if text in line], seconds)

    def _hear(self, what, found, seconds=START_SECONDS):
        deadline = time.monotonic() + seconds
        with self._heard:
            while True:
                for line in found():
                    return line
                assert self._reading, f"{self.name} ended without saying {what}:\n{self.said}"
                left = deadline - time.monotonic()
                assert left > 0, f"{self.name} has not said {what} in {seconds:g} s:\n{self.said}"
                self._heard.wait(left)

    def events(self, name):
        """The log lines of this event that have come."""
        rows = [json.loads(line) for line in tuple(self.errors) + tuple(self.lines) if line.startswith("{")]
        return [row for row in rows if row.get("event") == name]

    def wait(self, code=0, seconds=RUN_SECONDS):
        """Wait for its end, which must be with this exit code."""
        try:
            ended = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended in {seconds:g} s:\n{self.said}") from None
        for reader in self._readers:
            reader.join(START_SECONDS)
        assert ended == code, f"{self.name} ended with {ended}, not {code}:\n{self.said}"

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """Kill it, as power loss would, and wait until it is gone."""
        self.popen.kill()
        self.popen.wait(START_SECONDS)

    def end(self):
        """Whatever is left of it and of what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(START_SECONDS)
        for reader in self._readers:
            reader.join(START_SECONDS)


class Reader:
    """Asks the server at `url`, as any program can that has its `credentials`."""

    credentials = NOTHING

    def __init__(self, url):
        self.url = url

    def request(self, method, path, fields=None, headers=None, seconds=30.0):
        """One request: status, headers, body."""
        data = None if fields is None else json.dumps(fields).encode()
        headers = {**self.credentials.headers, **(headers or {})}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        tls = self.credentials.to_client() if self.url.startswith("https:") else None
        try:
            with urllib.request.urlopen(request, timeout=seconds, context=tls) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def ask(self, method, path, fields=None):
        """A request that has to succeed, answered in JSON."""
        status, _, body = self.request(method, path, fields)
        assert 200 <= status < 300, body
        return json.loads(body)

    def status(self):
        return self.ask("GET", "/v1/status")

    def version(self, at_least, seconds=RUN_SECONDS):
        """Wait until this version is out, as any reader can, and return its ETag."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            path = f"/v1/params?min_version={at_least}"
            status, headers, _ = self.request("HEAD", path, headers={"Prefer": "wait=10"})
            if status == 200:
                return headers["ETag"]
        raise AssertionError(f"version {at_least} was not out in {seconds:g} s")

    def parameters(self):
        """The newest parameters, as any program gets them."""
        status, _, body = self.request("GET", "/v1/params", headers={"Accept": "application/vnd.safetensors"})
        assert status == 200, body
        return load(body)


class Server(Process, Reader):
    """`ps-serve`, listening at `url`."""

    def stop(self):
        """End it in good order."""
        self.signal(signal.SIGTERM)
        self.wait()


class Commands:
    """Starts commands in `folder`, which is their working directory. Ends them at the end of its block."""

    def __init__(self, folder):
        self.folder = folder
        self._started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._started:
            process.end()

    def said(self):
        return {process.name: process.said for process in self._started}

    def python(self, name, *arguments, environment=None, kind=Process):
        """Run Python with these arguments."""
        return self._start(name, [sys.executable, *(str(argument) for argument in arguments)], environment, kind)

    def shell(self, name, line, environment=None):
        """Run a line of a page. Its last command has to take the shell's place (`exec`), to be ended with it."""
        return self._start(name, ["bash", "-c", line], environment, Process)

    def _start(self, name, command, environment, kind):
        process = kind(name, command, environment or {}, self.folder)
        self._started.append(process)
        return process

    def serve(self, *flags, port=0, environment=None):
        """A server, when it listens."""
        arguments = ("-m", "leeway.ps.cli", "--port", port, *flags)
        server = self.python("server", *arguments, environment=environment, kind=Server)
        server.url = server.address()
        return server

    def work(self, task, server, rank, *flags, environment=None):
        """A worker, from its first moment: nothing says that it has joined."""
        arguments = ("-m", "leeway.worker.train.cli", task, "--server", server.url, "--rank", rank, *flags)
        return self.python(rank, *arguments, environment=environment)

    def stage(self, server, rank, stage, nap=0.01):
        """One of two stages of a replica; `nap`: seconds of a micro-batch. They go on for as long as both are there."""
        return self.python(f"{rank}/{stage}", STAGED, server.url, rank, stage, nap)

    def workers(self, count, task, server, *flags):
        return [self.work(task, server, f"w{index}", *flags) for index in range(count)]

    def launch(self, task, *flags, environment=None):
        return self.python("launch", "-m", "leeway.worker.launch.cli", task, *flags, environment=environment)
