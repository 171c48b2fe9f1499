"""Replicas for tests: `ps-serve`, and a script for each stage, in processes of their own, ended with the block.

Forked from a process that has imported everything (`tests.load.forks`): a stage is there within a fraction of a second.
"""

import json
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

from safetensors.torch import load_file

from tests.end_to_end.commands import Reader
from tests.load.forks import fork, warm_up

SECONDS = 60.0
_LOOK_SECONDS = 0.01

# What a checkpoint calls the parameters.
_MODEL = "model/default/"


class Stage:
    """A process, and what it has said."""

    def __init__(self, fork, folder):
        self.fork = fork
        self._said, self._log = folder / f"{fork.name}.out", folder / f"{fork.name}.err"

    @property
    def rows(self):
        """What it said, in order; of the last line what is complete."""
        text = self._said.read_text() if self._said.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def log(self):
        return self._log.read_text() if self._log.exists() else ""

    @property
    def steps(self):
        return [row for row in self.rows if "outcome" in row]

    @property
    def last(self):
        return self.rows[-1]

    def until(self, so, what="it"):
        """Wait until that is so of this process."""
        until(lambda: so(self), lambda: f"{what} was not so of {self.fork.name}:\n{self.rows[-3:]}\n{self.log[-3000:]}")

    def trained(self, steps):
        """Wait until it has made so many steps."""
        self.until(lambda stage: len(stage.steps) >= steps, f"{steps} steps")

    def heard(self, words):
        self.until(lambda stage: words in stage.log, repr(words))

    def ended(self, code=0):
        self.until(lambda stage: stage.fork.exit_code is not None, "the end")
        assert self.fork.exit_code == code, (self.fork.name, self.rows[-2:], self.log[-3000:])
        return self.last


class Replicas:
    """In `folder`, where each process writes down what it says."""

    def __init__(self, folder):
        self.folder = folder
        self._stack = ExitStack()
        self._counts = {}
        warm_up()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def fork(self, name, target, arguments):
        number = self._counts[name] = self._counts.get(name, 0) + 1
        name = name if number == 1 else f"{name}-{number}"
        return self._stack.enter_context(fork(name, target, [str(each) for each in arguments], self.folder))

    def serve(self, *flags, port=0):
        """A server, which listens."""
        flags = ("--port", port, "--workers", 1, "--log-level", "warning", "--state-dir", self.folder / "state", *flags)
        return Server(self.fork("server", "leeway.ps.cli:main", flags), self.folder / "state")

    def stage(self, url, stage, stages=2, *, rank="w0", model="tally", **settings):
        given = {"url": url, "rank": rank, "stage": stage, "stages": stages, "model": model} | settings
        name = f"{rank}.{stage}"
        return Stage(self.fork(name, "tests.worker.pipeline.script:main", [json.dumps(given)]), self.folder)

    def replica(self, url, stages=2, **settings):
        return [self.stage(url, stage, stages, **settings) for stage in range(stages)]


class Server(Reader):
    def __init__(self, fork, state):
        self.fork, self.state = fork, state
        super().__init__(fork.lines()[0])

    @property
    def port(self):
        return urlsplit(self.url).port

    def kill(self):
        self.fork.kill()
        self.fork.wait_a_little()

    def stop(self):
        """In good order."""
        self.fork.ask_to_end()
        self.fork.end(SECONDS)
        assert self.fork.exit_code == 0

    def worker(self, rank="w0"):
        return next(worker for worker in self.status()["workers"] if worker["rank"] == rank)

    def saved(self):
        """The parameters with which it has ended: by itself, `--until` and the like."""
        self.fork.end(SECONDS)
        assert self.fork.exit_code == 0
        newest = max(self.state.glob("*.safetensors"))
        return {
            name.removeprefix(_MODEL): tensor for name, tensor in load_file(newest).items() if name.startswith(_MODEL)
        }

    def check_counts(self, batches):
        """Each of the batches was trained once, in every layer of a model of tallies."""
        counts = self.saved()
        assert len(counts) == 4
        for name, count in counts.items():
            assert count[:batches].tolist() == [1.0] * batches, name
            assert count.sum() == batches, name


def until(so, words, seconds=SECONDS):
    """Nothing tells of it: look again and again."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, words()
        time.sleep(_LOOK_SECONDS)
