"""`session.pipeline` against `ps-serve`, each stage in a process of its own: it trains what one worker trains."""

import pytest
import torch

import leeway
from leeway.worker.pipeline.layers import Layers
from tests.worker.pipeline.near import closely
from tests.worker.pipeline.replicas import Replicas
from tests.worker.pipeline.script import MODELS, more_kinds
from tests.worker.pipeline.test_equality import CUTS, SEED, plain, whole

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]

STEPS = 4
FLAGS = ("--mode", "async", "--optimizer", "sgd", "--lr", "0.2")
KINDS = more_kinds()


@pytest.fixture(scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, one_thread):
    """What one worker comes to with a whole model, in as many micro-batches: losses, and values at the end."""
    found = {}
    with Replicas(tmp_path_factory.mktemp("alone")) as replicas:

        def train(name):
            if name not in found:
                found[name] = _train(replicas.serve(*FLAGS), KINDS[name], MODELS[name].batch)
            return found[name]

        yield train


def _train(server, kind, batch):
    model, losses = whole(kind), []
    with leeway.connect(server.url, "w0") as session:
        session.attach(model)
        for place in range(STEPS):
            inputs, targets = batch({}, place)
            losses.append(plain(kind, model, 4, number=place, inputs=inputs, targets=targets)[0])
            for layer in Layers(model, kind.blocks).layers:
                layer.module._forward_pre_hooks.clear()
            session.step(samples=len(inputs))
    values = server.parameters()
    server.kill()
    return losses, values


@pytest.mark.parametrize(
    ("name", "stages", "options"),
    [
        *((name, stages, {}) for name in KINDS for stages in (2, 3)),
        ("cnn", 2, {"recompute": True}),
        ("transformer", 2, {"recompute": True, "schedule": "zb-h1"}),
        ("transformer", 4, {"schedule": "gpipe"}),
        ("mlp", 1, {}),
    ],
)
def test_a_pipeline_trains_what_one_worker_trains(name, stages, options, alone, replicas):
    """The transformer's head is tied to its embedding: one stage pushes the sum; the cnn has BatchNorm's buffers; of
    "relu" a stage has no parameters, of "frozen" none to train, of "statistics" buffers alone."""
    losses, values = alone(name)
    kind = KINDS[name]
    server = replicas.serve(*FLAGS, "--until", STEPS)
    cut = ",".join(map(str, CUTS[stages](len(Layers(kind.make(), kind.blocks)))))
    arguments = {"cut": cut, "seed": SEED, **options}
    made = replicas.replica(server.url, stages, model=name, arguments=arguments, evaluate=stages == 2)
    for stage in made:
        assert stage.ended() == {"ending": "finished", "committed": STEPS, "finished": True}
    assert [step["loss"] for step in made[-1].steps] == pytest.approx(losses, rel=1e-5)
    assert closely(server.saved(), values)
