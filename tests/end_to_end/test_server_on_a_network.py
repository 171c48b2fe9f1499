"""The page *A server on a network*, followed from the first line to the last: each machine is a folder, `scp` copies
between them, and all names lead to this machine's loopback. Nothing else is put in."""

import os
import re
import shlex
import signal
import sys

import pytest
import yaml

from leeway.transport.credentials.credentials import Credentials
from tests.dashboards.prometheus import Prometheus, until
from tests.end_to_end.commands import RUN_SECONDS, Commands, Reader
from tests.system import require
from tests.test_docs import TEXTS

pytestmark = pytest.mark.e2e

PAGE = TEXTS["docs/how-to/server-on-a-network.md"]
MODULES = {"ps-keys": "leeway.ps.keys.cli", "ps-serve": "leeway.ps.cli", "ps-top": "leeway.ps.top.cli"}
MODULES |= {"ps-worker": "leeway.worker.train.cli"}
# 127.0.0.1 as inet_aton reads it: to our programs, which read it as a name, an address beyond this machine.
BEYOND = "127.1"
SCP = '#!/bin/sh\nset -e\nfor last; do :; done\nto="$ROOT/${last%%.*}/${last#*:}"\ncp -pr "$2" "$to"\n'
SECONDS = 60.0


def lines():
    """The commands of the page in their order: on which machine, and what."""
    text = "".join(re.findall(r"<!-- cluster -->\n```console\n(.*?)```", PAGE, re.DOTALL))
    return [(host, command) for host, command in re.findall(r"^(\w+)\$ +(.*)$", text, re.MULTILINE)]


class Network:
    """Machines, as folders below `root`."""

    def __init__(self, root, commands):
        self.root = root
        self.commands = commands
        self.port = None
        self.running = {}
        programs = root / "bin"
        programs.mkdir()
        for name, script in {"scp": SCP, **{name: self.script(module) for name, module in MODULES.items()}}.items():
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "ROOT": str(root), "COLUMNS": "120"}

    @staticmethod
    def script(module):
        return f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n'

    def local(self, command):
        """The command with this machine's address in place of names, and a port that is free."""
        command = re.sub(r"--(metrics-)?port \d+", r"--\1port 0", command)
        command = command.replace("0.0.0.0", BEYOND)
        if "scp" not in command:
            place = f"127.0.0.1:{self.port}" if self.port else "127.0.0.1"
            command = re.sub(r"\b\w+\.example\.com(:8080)?", place, command)
        return command

    def folder(self, machine):
        folder = self.root / machine
        folder.mkdir(exist_ok=True)
        return folder

    def start(self, machine, command):
        line = f"cd {shlex.quote(str(self.folder(machine)))} && exec {self.local(command)}"
        process = self.commands.shell(machine, line, self.environment)
        self.running[machine] = process
        return process

    def do(self, machine, command):
        process = self.commands.shell(
            machine, f"cd {shlex.quote(str(self.folder(machine)))} && {self.local(command)}", self.environment
        )
        process.wait()
        return process.said


def test_from_zero_to_a_cluster(tmp_path):
    with Commands(tmp_path) as commands:
        network = Network(tmp_path, commands)
        try:
            follow(network)
        except BaseException:
            print(commands.said())
            raise


def follow(network):
    for machine in ("trainer", "node0", "node1"):
        network.folder(machine)
    commands = lines()
    assert len(commands) == 17
    begin, rest = commands[:9], commands[10:]

    for machine, command in begin:
        program = command.split()[0]
        if program == "ps-serve":
            server = network.start(machine, command)
            network.port = int(server.address().rpartition(":")[2])
        elif program == "ps-worker":
            network.start(machine, command)
        elif program == "prometheus":
            continue
        elif program == "ps-top":
            reader = reader_of(network)
            await_two(reader)
            assert "w0" in network.do(machine, f"{command} --once")
        else:
            network.do(machine, command)
    token = network.do(*commands[9]).strip()
    assert reader.credentials.headers == {"Authorization": f"Bearer {token}"}

    # The live page: anybody sees it and nothing of the run; with the token, all of it.
    stranger = Reader(reader.url)
    stranger.credentials = Credentials(None, reader.credentials.ca)
    assert stranger.request("GET", "/")[0] == 200
    for path in ("/v1/status", "/metrics", "/v1/events", "/v1/params"):
        assert stranger.request("GET", path)[0] == 401
    assert stranger.request("POST", "/v1/session", {"token": token})[0] == 200

    for machine, command in rest:
        said = network.do(machine, command)
        if command.startswith("curl"):
            assert '"workers"' in said
        if "tokens.toml" in command:
            os.kill(server.pid, signal.SIGHUP)
            server.hear("read anew")
    # w1 has been revoked: it ends at its next request, and w0 goes on.
    network.running["node1"].wait(code=1)
    assert "this token is not, or no longer, known here" in network.running["node1"].said
    watch(network, reader)


def await_two(reader):
    until(lambda: len(reader.status()["workers"]) == 2, RUN_SECONDS, "both workers have joined")


def reader_of(network):
    reader = Reader(f"https://127.0.0.1:{network.port}")
    cluster = network.root / "laptop" / "cluster"
    reader.credentials = Credentials.chosen({}, cluster / "people" / "reader" / "token", cluster / "ca.pem")
    return reader


def watch(network, reader):
    """Prometheus, with the page's configuration, reads the server and a worker."""
    program = require("prometheus")
    (text,) = re.findall(r"<!-- cluster: prometheus.yml -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    configuration = yaml.safe_load(text)
    server, workers = configuration["scrape_configs"]
    server["static_configs"] = [{"targets": [f"127.0.0.1:{network.port}"]}]
    metrics = network.running["node0"].address()
    assert metrics.startswith("https://")
    workers["static_configs"] = [{"targets": [metrics.removeprefix("https://").removesuffix("/metrics")]}]
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    with Prometheus(program, network.folder("laptop"), configuration) as prometheus:
        up = until(lambda: healthy(prometheus), SECONDS, "both are scraped")
        assert up == {"leeway": 1.0, "leeway-workers": 1.0}


def healthy(prometheus):
    found = {labels["job"]: value for labels, value in prometheus.ask("up")}
    return found if list(found.values()) == [1.0, 1.0] else None
