"""The same over real sockets: what crosses a border is all that the next stage needs."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from leeway.worker.pipeline.iteration import Iteration
from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.schedules import SCHEDULES
from tests.worker.pipeline.models import kinds, on_meta
from tests.worker.pipeline.near import Pipeline, closely
from tests.worker.pipeline.stages import begin, stages
from tests.worker.pipeline.test_equality import CUTS, plain, whole


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", kinds())
def test_an_iteration_over_sockets_equals_the_unsplit_model(name, count, schedule):
    kind = kinds()[name]
    model = whole(kind)
    sizes = CUTS[count](len(Layers(model, kind.blocks)))
    loss, gradients, buffers = plain(kind, model, 4)
    pipeline = Pipeline(on_meta(kind.make), sizes, loss=kind.loss)
    with stages(count) as neighbours:
        begin(neighbours, micro_batches=4)

        def train(computing):
            stage = computing.stage
            inputs, targets = kind.inputs if stage.first else None, kind.targets if stage.last else None
            return Iteration(computing, neighbours[stage.number], 0, 4, inputs, targets).train(schedule)

        with ThreadPoolExecutor(count) as threads:
            outcomes = list(threads.map(train, pipeline.computing))
    assert outcomes[-1].loss == pytest.approx(loss, rel=1e-6)
    assert closely(pipeline.gradients(), gradients)
    assert closely(pipeline.buffers(), buffers)
