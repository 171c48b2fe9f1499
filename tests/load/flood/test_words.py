"""Words and pictures on figures that were made up."""

import json
import math

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.load.flood.figures import GIB, KIB, MIB, Ceiling, Cell, Counted, FloodFigures, Load, Wake, count, size
from tests.load.flood.plots import plots
from tests.load.flood.words import words


def load(per_second, **changes):
    told = {
        "seconds": 2.0,
        "updates": 2 * per_second,
        "moved_bytes": 2 * per_second * 8 * KIB,
        "p50_seconds": 0.001,
        "p99_seconds": 0.002,
        "longest_seconds": 0.003,
        "resident_bytes": 250 * MIB,
        "loop_lag_mean_seconds": 0.0001,
        "loop_lag_p99_seconds": 0.0009,
        "server_cores": 0.9,
        "clients_cores": 0.3,
        "counted": Counted(0, 0, 0, 0, 0),
    }
    return Load(**told | changes)


def figures(*cells, **changes):
    return FloodFigures(**{"short": False, "seconds": 9.0, "window_seconds": 2.0, "cores": 2, "cells": cells} | changes)


GRID = figures(
    Cell(1, 4 * KIB, load(1000)),
    Cell(16, 4 * KIB, load(2950)),
    Cell(64, 4 * KIB, load(3000)),
    Cell(1000, 4 * KIB, load(1500, p50_seconds=0.65, p99_seconds=1.5, resident_bytes=290 * MIB)),
    Cell(
        16,
        256 * MIB,
        load(6, moved_bytes=6 * GIB, resident_bytes=5 * GIB, loop_lag_p99_seconds=math.inf, server_cores=1.6),
    ),
    Cell(4, 256 * MIB, failed="the server died: exit code -9"),
    ceilings=(Ceiling(1, 4 * KIB, 10_000, 0.0001, 0.0002), Ceiling(64, 4 * KIB, 20_000, 0.0001, 0.0002)),
    wakes=(Wake(64, 4 * KIB, 9, 0.004, 0.012, 0.02), Wake(1000, 4 * KIB, failed="the clients did not answer in time")),
    others_share=0.4,
    notes=("The system lets a process open 300 files.",),
)


def test_a_sentence_for_each_finding():
    told = words(GRID)
    assert told[0] == (
        "With a model of 4 KiB the server takes, applies and answers at most 3,000 updates a second (64 workers);"
        " 16 workers get 90% of that already; with 1,000 workers 50% of it alone are left."
    )
    assert told[1].startswith("The most bytes it moved were 3.2 GB/s, in and out together, at 16 workers with a model")
    assert "the server reaches 10% to 15% of it" in told[2]
    assert "takes 1 ms (p99 2 ms) with 1 worker and 650 ms (p99 1.5 s) with 1,000 workers that never pause" in told[3]
    assert "held 250 MiB with 1 worker of 4 KiB and 5 GiB at most, with 16 workers of 256 MiB, where 4 GiB" in told[4]
    assert "it grows with workers times model, 1.2 times that" in told[4]
    assert told[5].startswith("A worker that pushes 4 KiB costs it 41 KiB of memory")
    assert "late by more than its last bucket tells at worst (p99), at 16 workers of 256 MiB; 4 of 5 cells" in told[6]
    assert "0.53 s of a processor in models of 256 MiB" in told[7]
    assert "with all but one of 64 workers parked, the first is answered 4 ms after the last contribution" in told[8]
    assert "Not measured: 4 workers of 256 MiB: the server died: exit code -9." in told
    assert "Not measured: sync with 1,000 workers: the clients did not answer in time." in told
    assert "The system lets a process open 300 files." in told
    assert any("in 1 of 5 cells both together had nothing left of them" in sentence for sentence in told)
    assert told[-1] == "While it ran, other processes used 40% of the machine."


def test_of_one_cell_there_is_less_to_say():
    told = words(figures(Cell(1, 4 * KIB, load(1000))))
    assert told[0] == (
        "With a model of 4 KiB the server takes, applies and answers at most 1,000 updates a second (1 worker)."
    )
    assert "A push-pull of 4 KiB takes 1 ms (p99 2 ms) with 1 worker." in told
    assert not any("aiohttp" in sentence or "sync" in sentence for sentence in told)


def test_of_no_cell_only_the_reasons():
    none = figures(Cell(1, 4 * KIB, failed="it was late"))
    assert words(none) == ["No cell of the flood was measured.", "Not measured: 1 worker of 4 KiB: it was late."]
    assert plots(none) == []
    assert not none.complete


def test_figures_are_json_whatever_was_measured():
    told = json.loads(json.dumps(GRID.to_fields(), allow_nan=False))
    assert told["complete"] is False
    assert told["cells"][4]["load"]["loop_lag_p99_seconds"] is None
    assert told["cells"][5] == {"workers": 4, "model_bytes": 256 * MIB, "load": None, "failed": GRID.cells[5].failed}


def test_pictures_are_drawn_of_whatever_was_measured():
    for found in (
        GRID,
        figures(Cell(1, 4 * KIB, load(1000))),
        figures(Cell(1, KIB, load(1)), Cell(4, KIB, failed="x")),
    ):
        made = plots(found)
        assert len(made) == 4
        for title, caption, figure in made:
            assert title
            assert caption.endswith(".")
            FigureCanvasAgg(figure).draw()


def test_units():
    assert [size(n) for n in (64, 4 * KIB, 1536 * KIB, 256 * MIB, 1023 * MIB, 5 * GIB)] == [
        "64 B",
        "4 KiB",
        "1.5 MiB",
        "256 MiB",
        "1023 MiB",
        "5 GiB",
    ]
    assert count(1000) == "1,000"
