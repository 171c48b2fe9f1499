"""`ps-worker --stages` with real processes: replicas of a model that is spread over stages, under every policy.

The processes are forked from one that has imported everything already; what runs is the command itself.
"""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.end_to_end.commands import RUN_SECONDS, Reader
from tests.guarantees import judge, read
from tests.load.forks import fork, warm_up

pytestmark = pytest.mark.e2e

HERE = Path(__file__).with_name("small.py")
ALONE = ("--mode", "sync", "--lr", 0.2)


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm_up()


class Run:
    """A server in `folder`, and the stages of replicas. Ends what it has started."""

    def __init__(self, folder, *flags):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._stack = ExitStack()
        serve = ["--port", "0", "--history", str(folder / "history.jsonl"), *map(str, flags)]
        self.server = self._stack.enter_context(fork("server", "leeway.ps.cli:main", serve, folder))
        (self.url,) = self.server.lines()
        self.reader = Reader(self.url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def work(self, name, task, *flags):
        arguments = [task, "--server", self.url, "--log-format", "json", *map(str, flags)]
        return self._stack.enter_context(fork(name, "leeway.worker.train.cli:main", arguments, self.folder))

    def replica(self, rank, stages, task, *flags):
        of = ("--rank", rank, "--stages", stages)
        return [self.work(f"{rank}.{stage}", task, *of, "--stage", stage, *flags) for stage in range(stages)]

    def said(self, process):
        return (self.folder / f"{process.name}.err").read_text()

    def wait(self, *processes, code=0):
        for process in processes:
            process.end(RUN_SECONDS)
            assert process.exit_code == code, self.said(process)

    def rows(self):
        """The whole history, when the server has ended."""
        self.server.ask_to_end()
        self.wait(self.server)
        return read(self.folder / "history.jsonl")


def pushes(rows):
    asked = (row["event"] for row in rows if row.get("event", {}).get("is") == "Asked")
    return [event["message"] for event in asked if event["message"]["is"] == "Push"]


def losses(rows):
    """Of each iteration, by rank: the last stage tells it, and may tell it again."""
    found = {}
    for push in pushes(rows):
        if "loss" in push["metrics"]:
            found.setdefault(push["life"]["rank"], {})[push["clock"]] = push["metrics"]["loss"]
    return {rank: list(by_clock.values()) for rank, by_clock in found.items()}


TASKS = {
    "images": (f"{HERE}:Images", 16, ("--batch-size", 16, "--micro-batches", 4), ("--lr", 0.04)),
    "plays": (f"{HERE}:Plays", 8, ("--batch-size", 4, "--micro-batches", 2), ("--lr", 1.0)),
}
MODES = {"sync": (), "async": (), "ssp": ("--staleness", 3)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", TASKS)
def test_replicas_learn(data_dir, tmp_path, task, mode):
    target, steps, flags, serve = TASKS[task]
    with Run(tmp_path, "--mode", mode, *MODES[mode], "--workers", 2, "--until", steps, *serve) as run:
        flags = ("--data-dir", data_dir, "--start-together", 2, *flags)
        stages = [stage for rank in ("w0", "w1") for stage in run.replica(rank, 2, target, *flags)]
        run.wait(*stages, run.server)
        rows = read(run.folder / "history.jsonl")
        told = losses(rows)
        assert {rank: len(found) for rank, found in told.items()} == {"w0": steps, "w1": steps}
        for found in told.values():
            half = steps // 2
            assert sum(found[half:]) < sum(found[:half])
        # Each replica is one life, and its updates are whole.
        taken = [effect for row in rows for effect in row.get("effects", ()) if effect["is"] == "Apply"]
        assert {len(each["bodies"]) for effect in taken for each in effect["contributions"]} == {2}
        facts = judge(rows)
        assert facts.finished
        assert len(facts.told) == 2 * steps
        assert mode != "ssp" or facts.largest_lag <= 3


def train(folder, task, stages=None, init=None, flags=(), steps=6):
    """What one worker has learned, whole or in stages."""
    serve = () if init is None else ("--init", init)
    with Run(folder, *ALONE, *serve) as run:
        flags = ("--steps", steps, "--batch-size", 12, *flags)
        if stages is None:
            run.wait(run.work("w0", task, "--rank", "w0", *flags))
        else:
            run.wait(*run.replica("w0", stages, task, "--micro-batches", 4, *flags))
        return run.reader.parameters()


def closely(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=1e-4, atol=2e-6, msg=lambda said, name=name: f"{name}: {said}"
        )


@pytest.mark.parametrize("task", ["Convolutional", "Normalized"])
def test_in_however_many_stages_it_is_the_same(tmp_path, task):
    target = f"{HERE}:{task}"
    cuts = {1: (), 2: ("--cut", "memory"), 4: ("--cut", "1,1,1,1") if task == "Normalized" else ("--recompute",)}
    one, two, four = (train(tmp_path / str(stages), target, stages, flags=flags) for stages, flags in cuts.items())
    closely(two, one)
    closely(four, one)


def test_initial_values_come_from_a_run_of_either_kind(tmp_path):
    target = f"{HERE}:Convolutional"
    for number, stages in enumerate((None, 2)):
        init = tmp_path / f"{number}.safetensors"
        save_file(train(tmp_path / f"before{number}", target, stages, steps=3), init)
        whole = train(tmp_path / f"whole{number}", target, None, init)
        closely(train(tmp_path / f"stages{number}", target, 2, init), whole)


def test_the_stages_of_the_first_replica_evaluate(tmp_path):
    steps = 6
    with Run(tmp_path, "--mode", "sync", "--workers", 2, "--until", steps) as run:
        flags = ("--start-together", 2, "--batch-size", 16, "--evaluate-every", 2)
        stages = [stage for rank in ("w0", "w1") for stage in run.replica(rank, 3, f"{HERE}:Small", *flags)]
        run.wait(*stages, run.server)
        told = {}
        for push in pushes(read(run.folder / "history.jsonl")):
            told.setdefault((push["life"]["rank"], push["part"]), []).append(push["metrics"])
        assert all(metrics == {} for (_, part), each in told.items() if part < 2 for metrics in each)
        assert [set(metrics) for metrics in told["w1", 2]] == [{"loss"}] * steps
        found = [metrics["test_loss"] for metrics in told["w0", 2]]
        # At 0, 2 and 4, each kept until the next.
        assert found == [found[0]] * 2 + [found[2]] * 2 + [found[4]] * 2
        assert len(set(found)) == 3
        assert found[4] < found[0]
        said = {process.name: '"evaluated"' in run.said(process) for process in stages}
        assert [name for name, so in said.items() if so] == ["w0.2"]


def test_an_epoch_that_ends_in_a_small_batch(tmp_path):
    """500 samples in batches of 166 for 3 replicas: 2 are left, fewer than micro-batches, and none for one of them."""
    with Run(tmp_path, "--mode", "sync", "--workers", 3, "--until", 4) as run:
        flags = ("--batch-size", 166, "--micro-batches", 4, "--cut", "2,1", "--start-together", 3)
        stages = [stage for rank in ("w0", "w1", "w2") for stage in run.replica(rank, 2, f"{HERE}:Small", *flags)]
        run.wait(*stages, run.server)
        sizes = {}
        for push in pushes(read(run.folder / "history.jsonl")):
            sizes.setdefault(push["life"]["rank"], {}).setdefault(push["clock"], set()).add(push["samples"])
        assert {rank: [*found.values()] for rank, found in sizes.items()} == {
            "w0": [{166}, {1}] * 2,
            "w1": [{166}, {1}] * 2,
            "w2": [{166}, {0}] * 2,
        }


def test_a_stage_that_dies_is_replaced_and_nothing_is_lost(tmp_path):
    steps = 30
    with Run(tmp_path, "--mode", "async", "--until", steps, "--lease", 1) as run:
        flags = ("--batch-size", 50, "--cut", "2,1", "--evaluate-every", 4, "--pace", 0.02)
        first, last = run.replica("w0", 2, f"{HERE}:Small", *flags)
        run.reader.version(at_least=9)
        last.kill()
        again = run.work("again", f"{HERE}:Small", "--rank", "w0", "--stages", 2, "--stage", 1, *flags)
        run.wait(first, again, run.server)
        rows = read(run.folder / "history.jsonl")
        applied = [effect for row in rows for effect in row.get("effects", ()) if effect["is"] == "Apply"]
        assert len(applied) == steps
        ended = [effect["reason"] for row in rows for effect in row.get("effects", ()) if effect["is"] == "Ended"]
        assert ended[0] in ("lease-expired", "new-session")
        assert sum(ending == "left" for ending in ended) == 1
        assert len(judge(rows).applied) == steps


def test_a_run_that_is_over_before_all_stages_are_there(tmp_path):
    with Run(tmp_path, "--mode", "async", "--until", 10) as run:
        flags = ("--batch-size", 16, "--cut", "2,1", "--pace", 0.05)
        alone = run.work("alone", f"{HERE}:Small", "--rank", "w1", "--stages", 2, "--stage", 0, *flags)
        while not run.reader.status()["forming"]:
            assert alone.exit_code is None, run.said(alone)
        run.wait(*run.replica("w0", 2, f"{HERE}:Small", *flags), alone, run.server)
        assert "Traceback" not in run.said(alone)
        assert '"ending": "finished"' in run.said(alone)


class TestMistakes:
    """One line that says what to change, no traceback."""

    @pytest.mark.parametrize(
        ("task", "flags", "says"),
        [
            ("Small", ("--stages", 4), "4 stages, and the model has 3 layers; use at most 3 stages"),
            ("Small", ("--stages", 2, "--stage", 2), "--stage is 2; there are 2, from 0 to 1"),
            (
                "Small",
                ("--stages", 2, "--batch-size", 4),
                "--batch-size is 4, which cannot be cut into --micro-batches 8; give fewer micro-batches or larger",
            ),
            (
                "Small",
                ("--stages", 2, "--cut", "2,2"),
                "the cut 2,2 has 4 layers, and the model 3; let the numbers add",
            ),
            ("Whole", ("--stages", 2), "Bilinear is no plain nn.Sequential and declares no order of its blocks"),
            ("Unsaid", ("--stages", 2), "cannot be trained in stages: it lacks criterion (with --stages a task has"),
        ],
    )
    def test_of_a_command_line(self, tmp_path, task, flags, says):
        with Run(tmp_path) as run:
            stage = run.work("worker", f"{HERE}:{task}", "--rank", "w0", "--stage", 0, *flags)
            run.wait(stage, code=2)
            (line,) = run.said(stage).splitlines()
            assert line.startswith("ps-worker: ")
            assert says in line

    def test_stages_that_differ(self, tmp_path):
        with Run(tmp_path) as run:
            flags = ("--rank", "w0", "--stages", 2, "--cut", "2,1")
            first = run.work("first", f"{HERE}:Small", *flags, "--stage", 0)
            second = run.work("second", f"{HERE}:Small", *flags, "--stage", 1, "--micro-batches", 4)
            while (codes := {first.exit_code, second.exit_code}) == {None}:
                first.wait_a_little()
            # Whoever came second.
            assert codes == {None, 1}
            refused = first if first.exit_code else second
            assert "micro_batches is " in run.said(refused)
            assert "stages-differ" in run.said(refused)
            assert "Traceback" not in run.said(refused)
