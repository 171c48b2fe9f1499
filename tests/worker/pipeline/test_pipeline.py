"""`session.pipeline` against `ps-serve`, each stage in a process of its own: it trains what one worker trains."""

import gc

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

import leeway
from leeway.errors import ServerLost, SessionClosed, WireError
from leeway.protocol.codes import Code
from leeway.worker.pipeline import neighbourhood
from leeway.worker.pipeline.layers import Layers
from tests.worker.pipeline.near import closely
from tests.worker.pipeline.own import CUT, TALLY, batch, stage_of, train
from tests.worker.pipeline.replicas import Replicas, until
from tests.worker.pipeline.script import MODELS, more_kinds
from tests.worker.pipeline.stages import Doing
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


# What a script sees of it.


COUNTS = ("--mode", "async", "--optimizer", "sgd", "--lr", "1", "--lease", "1")


def first_stage(session, model=TALLY, **arguments):
    return stage_of(session, 0, model, **CUT | arguments)


def last_stage(session):
    return stage_of(session, 1, **CUT)


def test_bfloat16_on_the_way_is_close(alone, replicas):
    losses, values = alone("mlp")
    server = replicas.serve(*FLAGS, "--until", STEPS)
    arguments = {"cut": "3,3", "seed": SEED, "wire_dtype": "bfloat16"}
    made = replicas.replica(server.url, model="mlp", arguments=arguments)
    for stage in made:
        stage.ended()
    found = [step["loss"] for step in made[-1].steps]
    assert found == pytest.approx(losses, rel=0.02)
    assert found != losses
    for name, tensor in server.saved().items():
        torch.testing.assert_close(tensor, values[name], rtol=0.1, atol=0.01)


def test_micro_batches_of_unequal_sizes(replicas):
    """Given as lists; of a mean over the batch, the larger ones count for more."""
    server = replicas.serve(*FLAGS)
    kind, sizes = KINDS["mlp"], [5, 2, 1, 2]
    replicas.stage(server.url, 1, model="mlp", arguments={"cut": "3,3", "seed": SEED}, sizes=sizes)
    model = whole(kind)
    lists = list(kind.inputs.split(sizes)), list(kind.targets.split(sizes))
    _, gradients, _ = plain(kind, model, 4, inputs=lists[0], targets=lists[1])
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session, MODELS["mlp"], cut="3,3", seed=SEED)
        pipeline.step(lists[0])
        assert pipeline.last.samples == 10
    found = server.parameters()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], model.state_dict()[name] - 0.2 * gradient)


def test_a_batch_that_cannot_be_leaves_the_iteration_whole(replicas):
    """Nothing was sent, so the other stage has noticed nothing."""
    server = replicas.serve(*COUNTS, "--until", 3)
    other = replicas.stage(server.url, 1, arguments=CUT)
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session)
        while not pipeline.finished:
            inputs, _ = batch(pipeline.committed)
            for wrong in (inputs[:3], None, [inputs], inputs[:0], torch.tensor(1.0), "batch"):
                with pytest.raises(ValueError, match="inputs"):
                    pipeline.step(wrong)
                with pytest.raises(ValueError, match="inputs"):
                    pipeline.evaluate(wrong)
            pipeline.step(inputs)
        with pytest.raises(ValueError, match="nothing more to train: the run ends at clock 3; loop while not"):
            pipeline.step(inputs)
    other.ended()
    assert "dropped" not in other.log
    server.check_counts(3)


def test_inputs_that_a_layer_does_not_take(replicas):
    """It fails in the middle: all stages give the iteration up, which the next call says; then it can be made again."""
    server = replicas.serve(*COUNTS, "--until", 3)
    other = replicas.stage(server.url, 1, arguments=CUT)
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session)
        while not pipeline.finished:
            inputs, _ = batch(pipeline.committed)
            with pytest.raises(RuntimeError, match="size mismatch"):
                pipeline.step([inputs[:2], inputs[2:4], inputs[4:6], inputs[6:, :5]])
            assert pipeline.step(inputs).reason is Code.STAGE_LOST
            assert not pipeline.step(inputs).dropped
    other.ended()
    server.check_counts(3)


def test_what_a_session_tells_of_it(replicas):
    server = replicas.serve(*COUNTS)
    other = replicas.stage(server.url, 1, arguments=CUT)
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session)
        assert (pipeline.stage, pipeline.stages, pipeline.committed, pipeline.clock) == (0, 2, 0, 0)
        assert (pipeline.index, pipeline.count, pipeline.loss, pipeline.outcome) == (0, 1, None, None)
        assert list(dict(pipeline.module.named_parameters())) == ["0.count", "1.count"]
        outcome = pipeline.step(batch(0)[0], metrics={"place": 0.0})
        assert pipeline.outcome is outcome
        assert not outcome.dropped
        assert (pipeline.committed, pipeline.clock, pipeline.version) == (1, 1, outcome.version or pipeline.version)
        assert pipeline.times.compute_seconds > 0
        assert pipeline.last.samples == 8
        other.trained(1)
        assert server.worker()["reported"]["place"] == 0.0
        with pytest.raises(ValueError, match="a stage of a pipeline"):
            session.attach(nn.Linear(2, 2))
        with pytest.raises(ValueError, match="a stage of a pipeline"):
            first_stage(session)
        assert not session.finished
    with pytest.raises(SessionClosed):
        pipeline.step(batch(1)[0])
    other.heard("stage 0 of w0#1 left")


def test_a_session_that_nobody_refers_to_ends(replicas):
    server = replicas.serve(*COUNTS)
    other = replicas.stage(server.url, 1, arguments=CUT)
    session = leeway.connect(server.url, "w0")
    pipeline = first_stage(session)
    pipeline.step(batch(0)[0])
    del session, pipeline
    gc.collect()
    other.heard("stage 0 of w0#1 left")


def test_a_run_that_is_complete_already(replicas):
    server = replicas.serve(*COUNTS, "--until-seconds", 0.5)
    with leeway.connect(server.url, "w1") as session:
        session.attach(TALLY.make())  # until it has pushed, the server is there
        until(lambda: server.status()["over"], lambda: "the run goes on")
        late = replicas.stage(server.url, 0, arguments=CUT)
        assert late.ended()["ending"] == "finished"


def test_a_cut_to_be_measured_needs_an_example(replicas):
    server = replicas.serve(*COUNTS)
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session, cut="time")
        for call in (lambda: pipeline.committed, lambda: pipeline.step(batch(0)[0]), lambda: pipeline.module):
            with pytest.raises(
                ValueError, match=r"the pipeline has not begun: its cut is measured, which needs an example"
            ):
                call()
        with pytest.raises(ValueError, match="cut='time' measures each layer, on every stage: give all of them an"):
            pipeline.begin()


def test_a_measured_cut_stays_with_the_replica(replicas):
    """A process that takes a stage's place adopts the cut that was decided, whatever it measures itself."""
    server = replicas.serve(*COUNTS, "--until", 60)
    slow = replicas.stage(server.url, 0, model="tally", pace_seconds=0.02)
    quick = replicas.stage(server.url, 1, model="tally", pace_seconds=0.0)
    slow.trained(3)
    assert "layers=0 " in slow.log, "its layers take longer: it has one of four"
    slow.fork.kill()
    instead = replicas.stage(server.url, 0, model="tally", pace_seconds=0.0)
    for stage in (instead, quick):
        assert stage.ended()["committed"] == 60
    assert "layers=0 " in instead.log
    server.check_counts(60)


def test_replicas_that_start_together(replicas):
    server = replicas.serve(*COUNTS, "--until", 5)
    made = [replicas.stage(server.url, stage, rank="w0", arguments=CUT, start_together=2) for stage in range(2)]
    for stage in made:
        stage.heard("cut")
    assert not made[0].steps
    made += [replicas.stage(server.url, stage, rank="w1", arguments=CUT, start_together=2) for stage in range(2)]
    for stage in made:
        assert stage.ended()["committed"] == 5


def test_an_evaluation_that_others_are_through_with_is_made_again(replicas):
    """The first stage has sent all of it when the other one is lost, and goes on to train: both begin anew."""
    server = replicas.serve(*COUNTS, "--until", 2)
    arguments = {**CUT, "micro_batches": 2}
    other = replicas.stage(server.url, 1, arguments=arguments, evaluate=True)
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session, micro_batches=2)
        pipeline.evaluate(*batch(0))
        pipeline.step(*batch(0))
        other.trained(1)
        other.fork.stop()
        assert pipeline.evaluate(batch(1)[0]).samples == 8
        other.fork.kill()
        instead = replicas.stage(server.url, 1, arguments=arguments, evaluate=True)
        assert pipeline.step(batch(1)[0]).reason is Code.STAGE_LOST
        assert pipeline.evaluate(batch(1)[0]).samples == 8
        assert not pipeline.step(batch(1)[0]).dropped
    assert instead.ended()["ending"] == "finished"
    assert [row["place"] for row in instead.rows if "evaluated" in row] == [1]
    server.check_counts(2)


@pytest.mark.parametrize("dies", [False, True])
def test_an_evaluation_behind_the_end_does_not_wait_for_who_has_gone(dies, replicas):
    server = replicas.serve(*COUNTS, "--until", 2)
    other = replicas.stage(server.url, 0, arguments=CUT, lingers=dies)
    with leeway.connect(server.url, "w0") as session:
        pipeline = last_stage(session)
        train(pipeline)
        if dies:
            other.heard("nothing more to train")
            other.fork.kill()
        assert pipeline.evaluate(None, batch(2)[1]) is None
        pipeline.end()


@pytest.mark.parametrize("torn", [False, True])
def test_a_server_that_has_lost_its_model(torn, replicas):
    """It takes that of the stages, unless they hold different versions: those would be no model."""
    server = replicas.serve(*COUNTS, "--until", 6)
    other = replicas.stage(server.url, 1, arguments=CUT)
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session)
        for place in range(3):
            pipeline.step(batch(place)[0])
        other.trained(3)
        server.kill()
        if torn:  # as where the server has died between the two replies
            pipeline._seat._tell_holds("1.99")
        again = replicas.serve(*COUNTS, "--until", 6, port=server.port)
        if torn:
            with pytest.raises(
                WireError, match=r"stages-differ: the server was started again without its model, .*1\.99"
            ):
                pipeline.step(batch(3)[0])
            assert again.status()["groups"]["default"]["version"] == 0
        else:
            while not pipeline.finished:
                pipeline.step(batch(pipeline.committed + 3)[0])
    if torn:
        assert other.ended(1)["code"] == "stages-differ"
        return
    assert other.ended()["ending"] == "finished"
    values = again.saved()
    assert all(torch.equal(values[f"{layer}.count"], values["0.count"]) for layer in range(4))


def test_server_and_neighbour_lost_at_once(replicas):
    """As when one machine dies that both were on: nobody says any more that the life is over."""
    server = replicas.serve(*COUNTS, "--until", 100)
    other = replicas.stage(server.url, 0, arguments=CUT)
    with leeway.connect(server.url, "w0", patience_seconds=1) as session:
        pipeline = last_stage(session)
        pipeline.step(None, batch(0)[1])
        other.fork.kill()
        server.kill()
        with pytest.raises(ServerLost):
            pipeline.step(None, batch(1)[1])


@pytest.mark.parametrize(("theirs", "evaluates"), [(["evaluate", "end"], False), (["end"], True), ([], True)])
def test_last_calls_that_differ_end(theirs, evaluates, replicas):
    """Behind the end there is no next life in which they could agree."""
    server = replicas.serve(*COUNTS, "--until", 2)
    other = replicas.stage(server.url, 0, arguments=CUT, last=theirs)
    with leeway.connect(server.url, "w0") as session:
        pipeline = last_stage(session)
        train(pipeline)
        if evaluates:
            assert pipeline.evaluate(None, batch(2)[1]) is None
        pipeline.end()
        other.ended()


def test_a_stopped_stage_behind_the_end_is_not_waited_for(replicas):
    """Its port answers for the kernel; the process does not."""
    server = replicas.serve(*COUNTS, "--until", 2)
    other = replicas.stage(server.url, 0, arguments=CUT, lingers=True)
    with leeway.connect(server.url, "w0") as session:
        pipeline = last_stage(session)
        train(pipeline)
        other.heard("nothing more to train")
        other.fork.stop()
        pipeline.end()
        other.fork.kill()


def test_who_waits_says_for_whom(monkeypatch, replicas):
    monkeypatch.setattr(neighbourhood, "FIRST_WORD_SECONDS", 0.05)
    monkeypatch.setattr(neighbourhood, "WORD_SECONDS", 0.05)
    server = replicas.serve(*COUNTS, "--until", 1)
    other = replicas.stage(server.url, 1, arguments=CUT, pace_seconds=0.2)
    with leeway.connect(server.url, "w0") as session, capture_logs() as logs:
        first_stage(session).step(batch(0)[0])
    other.ended()
    said = [line for line in logs if line["event"] == "waiting" and "detail" in line and "hand over" in line["detail"]]
    assert said[0] | {"seconds": 0} == {
        "event": "waiting",
        "log_level": "info",
        "rank": "w0",
        "stage": 0,
        "seconds": 0,
        "detail": "waits for stage 1 to hand over the errors of micro-batch 0",
    }


def test_a_pipeline_is_for_one_thread(replicas):
    server = replicas.serve(*COUNTS, "--until", 1)
    other = replicas.stage(server.url, 1, arguments=CUT, pace_seconds=0.5)
    with leeway.connect(server.url, "w0") as session:
        pipeline = first_stage(session)
        stepping = Doing(lambda: pipeline.step(batch(0)[0]))
        until(lambda: pipeline._caller is not None, lambda: "it never began")
        for call in (pipeline.step, pipeline.evaluate, pipeline.skip, pipeline.end, pipeline.begin):
            with pytest.raises(RuntimeError, match="another thread uses this session"):
                call()
        assert not stepping.result().dropped
    other.ended()


def test_what_is_wrong_is_said_before_the_iteration(replicas):
    server = replicas.serve(*COUNTS, "--until", 1)
    other = replicas.stage(server.url, 1, arguments=CUT)
    with leeway.connect(server.url, "w0") as session:
        with pytest.raises(ValueError, match="port is 131072"):
            first_stage(session, port=131072)
        with pytest.raises(ValueError, match="device is 'cuda:77', and nothing can be computed there"):
            first_stage(session, device="cuda:77")
        with pytest.raises(ValueError, match="device is 'meta', and nothing can be computed there"):
            first_stage(session, device="meta")
        with pytest.raises(ValueError, match="layer 0 fails on what it is given"):
            first_stage(session, cut="time", example=torch.zeros(8, 3))
        pipeline = first_stage(session)
        for wrong in ("zz", {"a": "b"}, {"a" * 1000: 1}):
            with pytest.raises(ValueError, match="metrics"):
                pipeline.step(batch(0)[0], metrics=wrong)
        assert not pipeline.step(batch(0)[0]).dropped
        with pytest.raises(ValueError, match="trains a stage of a pipeline already"):
            first_stage(session)
    other.ended()


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_an_iteration_without_an_update(mode, replicas):
    """Its batch is behind the replica like any other. The first stage's skip is that of all; they are told so."""
    server = replicas.serve("--mode", mode, "--lr", "1", "--until", 4)
    made = replicas.replica(server.url, 3, arguments={"cut": "2,1,1"}, skips=[1, 2])
    for stage in made:
        assert stage.ended()["committed"] == 4
        assert [row["skipped"].split(" (")[0] for row in stage.rows if "skipped" in row] == ["skipped @1", "skipped @2"]
        assert [row["place"] for row in stage.steps] == [0, 3]


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (
            {"evaluate": True},
            "stage 0 has begun to train in 4 micro-batches, and this stage to evaluate in 4 micro-batches",
        ),
        (
            {"micro_batches": 2},
            "stage 0 has begun to train in 4 micro-batches, and this stage to train in 2 micro-batches",
        ),
        ({"skips": [0]}, "stage 0 has begun to train in 4 micro-batches, and this stage to skip"),
    ],
)
def test_scripts_that_differ_are_told(theirs, words, replicas):
    """Once may be chance. The stage that has seen it twice ends, and so does the life of the replica."""
    server = replicas.serve(*FLAGS, "--until", 5)
    first = replicas.stage(server.url, 0, arguments={"cut": "2,2"})
    second = replicas.stage(server.url, 1, arguments={"cut": "2,2"}, **theirs)
    error = second.ended(1)["error"]
    assert error == f"{words}, twice at batch 0; all stages have to make the same calls"
    first.heard("iteration dropped")
    assert server.status()["groups"]["default"]["steps"] == 0
