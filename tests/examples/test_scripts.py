"""Scripts as people have them (`examples/scripts`), unchanged as plain torch, as one worker and as two, against
`ps-serve` itself. All are processes of their own."""

import os
import shutil
from dataclasses import dataclass, field

import pytest
import torch

from tests.end_to_end.commands import Commands
from tests.examples.script import FOLDER, run, serving
from tests.load.forks import warm_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Shape:
    """`steps`: of the optimizer, in each of two workers. `learned`: below this is, in the mean of both and whoever came
    first, what they say of the end, and far above it what they say of the beginning. `modes`: in which they learn."""

    script: str
    steps: int
    learned: float
    modes: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


ALL = ("sync", "async", "ssp")
SHAPES = {
    "vae": Shape("vae", 60, 31, ("ssp",)),
    "tied language model": Shape("tied_language_model", 66, 1.5, ("async",)),
    "gcn": Shape("gcn", 40, 0.7, ("sync",)),
    "actor and critic": Shape("actor_critic", 80, 6.5, ("async",)),
    "small gpt": Shape("small_gpt", 60, 1.7, ALL),
    "factorisation": Shape("factorisation", 80, 3, ALL),
    "sparse factorisation": Shape("factorisation", 80, 3, ("sync",), {"SPARSE": "1"}),
    "trainer": Shape("trainer", 64, 0.5, ("ssp",)),
}
# Two models that work against each other: no loss of theirs falls for good.
ADVERSARIES = {"gan"}


@pytest.fixture(scope="module", autouse=True)
def _forks():
    warm_up()


def place(number, world, url=None):
    """What a launcher says, and where the server is."""
    told = {"RANK": str(number), "WORLD_SIZE": str(world)}
    return told if url is None else told | {"PS_SERVER": url}


def made(folder):
    folder.mkdir()
    return folder


def flags(mode, workers, until):
    staleness = ("--staleness", "3") if mode == "ssp" else ()
    return "--mode", mode, "--workers", str(workers), "--until", str(until), *staleness


def as_plain_and_as_worker(folder, script, environment, mode="sync"):
    (plain,) = run(made(folder / "plain"), script, environment)
    with serving(made(folder / "server"), *flags(mode, 1, len(plain.losses))) as url:
        (worker,) = run(made(folder / "worker"), script, environment | place(0, 1, url))
    return plain, worker


def assert_equal(plain, worker):
    assert worker.losses == plain.losses
    assert worker.tensors.keys() == plain.tensors.keys()
    assert [name for name, tensor in plain.tensors.items() if not torch.equal(worker.tensors[name], tensor)] == []


def test_all_scripts_are_tried():
    assert {path.stem for path in FOLDER.glob("*.py")} == {shape.script for shape in SHAPES.values()} | ADVERSARIES


@pytest.mark.parametrize("name", SHAPES)
def test_one_worker_is_plain_torch_in_all_digits(name, tmp_path):
    assert_equal(*as_plain_and_as_worker(tmp_path, SHAPES[name].script, SHAPES[name].environment))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_is_plain_torch_in_all_digits(backend, tmp_path):
    if backend == "inductor" and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile: inductor needs a C++ compiler, CXX or g++")
    assert_equal(*as_plain_and_as_worker(tmp_path, "small_gpt", {"COMPILE": backend}))


def test_two_models_with_an_optimizer_each_are_plain_torch_in_all_digits(tmp_path):
    assert_equal(*as_plain_and_as_worker(tmp_path, "gan", {}))


def test_two_workers_with_two_models_each_come_to_what_is_real(tmp_path):
    with serving(made(tmp_path / "server"), *flags("sync", 2, 60)) as url:
        workers = run(made(tmp_path / "workers"), "gan", *(place(number, 2, url) for number in range(2)))
    for worker in workers:
        print(worker.said)
        assert len(worker.losses) == 60
        missed = float(worker.said.split(" from the ring")[0].split()[-1])
        assert missed < 0.7, "how far what is made up lies from the ring: 0.75 after one step"


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name in SHAPES for mode in SHAPES[name].modes])
def test_two_workers_learn(name, mode, tmp_path):
    shape = SHAPES[name]
    with serving(made(tmp_path / "server"), *flags(mode, 2, shape.steps)) as url:
        environments = [shape.environment | place(number, 2, url) for number in range(2)]
        workers = run(made(tmp_path / "workers"), shape.script, *environments)
    for worker in workers:
        print(name, mode, worker.said)
        assert len(worker.losses) == shape.steps
    first, last = (sum(figures) / 2 for figures in zip(*(worker.course for worker in workers), strict=True))
    assert last < shape.learned < first / 1.4, workers
    assert workers[0].losses != workers[1].losses, "each reads samples of its own"


def test_a_trainer_goes_on_from_its_snapshot(tmp_path):
    until_four = {"EPOCHS": "4", "SNAPSHOT": "whole.pt"}
    (whole,) = run(made(tmp_path / "whole"), "trainer", until_four)
    losses = []
    for epochs in (2, 4):
        environment = {"EPOCHS": str(epochs), "SNAPSHOT": str(tmp_path / "snapshot.pt")}
        with serving(made(tmp_path / f"server-{epochs}"), *flags("sync", 1, len(whole.losses) // 2)) as url:
            (part,) = run(made(tmp_path / f"part-{epochs}"), "trainer", environment | place(0, 1, url))
        losses += part.losses
    assert losses == whole.losses
    assert all(torch.equal(part.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_a_trainer_under_torchrun(tmp_path):
    with Commands(tmp_path) as commands:
        server = commands.serve(*flags("ssp", 2, SHAPES["trainer"].steps))
        environment = {"PS_SERVER": server.url}
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, FOLDER / "trainer.py")
        commands.python("torchrun", *launch, environment=environment).wait()
        server.wait()
    assert (tmp_path / "snapshot.pt").exists()
