from __future__ import annotations

import pytest

from tests.demo import timeline
from tests.demo.evaluation import Point
from tests.demo.picture import draw
from tests.demo.plan import MODES, Plan
from tests.demo.report import Result

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("best", [0.97, 0.9], ids=["target reached", "target missed"])
def test_a_picture_is_drawn_of_whatever_was_run(tmp_path, ssp_rows, sync_rows, best):
    points = [Point(1, 0.0, 0, 0.1), Point(2, 3.0, 2, best)]
    sync = Result(MODES[0], timeline.follow(sync_rows), points)
    ssp = Result(MODES[1], timeline.follow(ssp_rows), points)
    for name, results in (("both", [sync, ssp]), ("one", [ssp])):
        path = tmp_path / f"{name}.png"
        draw(path, Plan(), results)
        assert path.read_bytes().startswith(PNG)
