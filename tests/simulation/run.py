"""Plays one schedule of the simulation and tells it as it goes: `python tests/simulation/run.py SEED`."""

import sys
from pathlib import Path


def main() -> None:
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.simulation.simulation import Simulation

    simulation = Simulation(int(sys.argv[1]))
    try:
        simulation.run()
    finally:
        print(simulation)


if __name__ == "__main__":
    main()
