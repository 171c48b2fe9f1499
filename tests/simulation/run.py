"""Plays one schedule of the simulation and tells it as it goes: `tests/simulation/run.py SEED [parts | replicas]`."""

import sys
from pathlib import Path


def main() -> None:
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.simulation.parts import SeveralParts
    from tests.simulation.replicas import Replicas
    from tests.simulation.simulation import Simulation

    kinds = {kind.kind.strip(): kind for kind in (Simulation, SeveralParts, Replicas)}
    simulation = kinds["".join(sys.argv[2:])](int(sys.argv[1]))
    try:
        simulation.run()
    finally:
        print(simulation)


if __name__ == "__main__":
    main()
