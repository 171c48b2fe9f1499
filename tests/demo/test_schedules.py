from __future__ import annotations

from tests.demo.schedules import draw


def test_the_picture_of_the_schedules_is_drawn(tmp_path):
    draw(tmp_path / "pipeline.png")
    assert (tmp_path / "pipeline.png").read_bytes().startswith(b"\x89PNG")
