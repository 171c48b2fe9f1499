"""Results that nobody measured, for tests of what is made of results."""

from tests.load.scenario import Scenario
from tests.load.stragglers import Constant, Moving, Nobody
from tests.load.systems import System
from tests.load.trials import Costs, Histogram, Point, Result, Trial

NONE, CONSTANT, MOVING = Nobody(), Constant(0.05), Moving(0.05, 4)

SCENARIO = Scenario(
    name="made-up",
    title="Made up",
    task="digits",
    batch_size=32,
    target_accuracy=0.9,
    run_seconds=10.0,
    search_seconds=5.0,
    snapshot_seconds=0.1,
    seeds=(0, 1, 2),
    learning_rates=(0.1, 0.2),
    systems=tuple(System.read(name) for name in ("sync", "async", "ssp(1)", "ssp(3)", "ddp")),
    stragglers=(NONE, CONSTANT, MOVING),
)


def result(system, straggler, seed, seconds_to_target, *, paces=(10.0, 10.0), failure=None, scenario=SCENARIO):
    """A run that learns along a straight line until the target, if it gets there, with 100 updates a second."""
    trial = Trial(scenario, System.read(system), straggler, seed, 0.1, scenario.run_seconds)
    reached = [] if seconds_to_target is None else [Point(seconds_to_target, 100 * seconds_to_target, 0.91)]
    points = [Point(0.1, 10.0, 0.2), *reached, Point(10.0, 1000.0, 0.95 if reached else 0.85)]
    ours = system != "ddp"
    return Result(
        trial=trial,
        seconds=10.0,
        points=tuple(points),
        steps=1000,
        updates=1000,
        waiting={"w0": 0.1, "w1": 0.3},
        paces={f"w{rank}": pace for rank, pace in enumerate(paces)},
        staleness=Histogram((0.0, 1.0, 2.0), (500, 400, 100, 0)) if ours else None,
        lag=Histogram((0.0, 1.0, 2.0), (700, 200, 100, 0), 400.0) if ours else None,
        costs=Costs(4e6, not ours, 1.0 if ours else None, 2.0, 20 * 2.0**20 if ours else None, 60 * 2.0**20),
        failure=failure,
    )


def results(straggler, **seconds):
    """Of each system, by keyword (`ssp3` for ssp(3)): seconds to the target of each seed, None for never."""
    made = []
    for name, of_seeds in seconds.items():
        system = f"ssp({name[3:]})" if name.startswith("ssp") else name
        made += [result(system, straggler, seed, one) for seed, one in enumerate(of_seeds)]
    return made
