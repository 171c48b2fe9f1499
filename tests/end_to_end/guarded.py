"""A server that lets in those of a cluster alone, and who comes to it: real commands, started in milliseconds."""

import os
import time
from contextlib import ExitStack

from tests.end_to_end.commands import RUN_SECONDS, SMALL, Reader
from tests.load.forks import fork


class Cluster:
    """A server of `keys` in `folder`, and who comes to it: commands, forked from one that has imported everything."""

    def __init__(self, keys, folder, *flags, tokens=True, client_ca=True, tls=True):
        self.keys = keys
        self.folder = folder
        self._stack = ExitStack()
        server = keys.of("server")
        tls = ["--tls-cert", server / "cert.pem", "--tls-key", server / "key.pem"] if tls else []
        tls += ["--tls-client-ca", server / "ca.pem"] if client_ca else []
        tls += ["--tokens", server / "tokens.toml"] if tokens else []
        serve = ["--port", 0, "--mode", "async", "--lr", 0.01, "--log-format", "json", *tls, *flags]
        self.server = self.start("server", "leeway.ps.cli:main", serve)
        (self.url,) = self.server.lines()
        self.reader = Reader(self.url)
        self.reader.credentials = keys.credentials("reader")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def start(self, name, target, arguments):
        return self._stack.enter_context(fork(name, target, list(map(str, arguments)), self.folder))

    def work(self, rank, *flags, shown=(), url=None, name=None, task=SMALL):
        arguments = [task, "--server", url or self.url, "--rank", rank, "--log-format", "json", *shown, *flags]
        return self.start(name or rank, "leeway.worker.train.cli:main", arguments)

    def said(self, process):
        return (self.folder / f"{process.name}.out").read_text() + (self.folder / f"{process.name}.err").read_text()

    def wait(self, process, code=0):
        process.end(RUN_SECONDS)
        assert process.exit_code == code, self.said(process)
        return self.said(process)

    def hear(self, text, count=1):
        """Wait until the server has said this so often."""
        deadline = time.monotonic() + RUN_SECONDS
        while (said := self.said(self.server)).count(text) < count:
            self.server.check()
            assert time.monotonic() < deadline, said
            os.sched_yield()
        return said


FILES = {"token_file": "token", "ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def flags_of(keys, name, *left_out):
    """Of a worker, but for some."""
    flags = {f"--{argument.replace('_', '-')}": keys.of(name) / file for argument, file in FILES.items()}
    return [part for flag, path in flags.items() if flag not in left_out for part in (flag, path)]
