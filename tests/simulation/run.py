"""Plays one schedule of the simulation and tells it as it goes: `python tests/simulation/run.py SEED [parts]`."""

import sys
from pathlib import Path


def main() -> None:
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.simulation.parts import SeveralParts
    from tests.simulation.simulation import Simulation

    kind = SeveralParts if sys.argv[2:] == ["parts"] else Simulation
    simulation = kind(int(sys.argv[1]))
    try:
        simulation.run()
    finally:
        print(simulation)


if __name__ == "__main__":
    main()
