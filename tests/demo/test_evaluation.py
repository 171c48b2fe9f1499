from __future__ import annotations

import pytest
import safetensors.torch
import torch

from leeway.worker.train.tasks.digits import Digits
from tests.demo import timeline
from tests.demo.evaluation import Evaluator, Point, curve, reached


def test_a_version_is_as_good_as_the_task_says(tmp_path):
    task = Digits(tmp_path)
    model = task.model(seed=3)
    body = safetensors.torch.save(dict(model.state_dict()))
    expected = task.evaluate(model, torch.device("cpu"))["accuracy"]
    assert Evaluator("digits").accuracy(body) == expected


def test_versions_stand_where_the_server_published_them(ssp_rows):
    points = curve({1: 0.1, 4: 0.8, 6: 0.9}, timeline.follow(ssp_rows))
    assert points == [Point(1, 0.0, 0, 0.1), Point(4, 5.0, 3, 0.8), Point(6, 10.0, 5, 0.9)]


def test_under_sync_a_version_holds_the_updates_of_all(sync_rows):
    points = curve({1: 0.1, 2: 0.2, 3: 0.3}, timeline.follow(sync_rows))
    assert [(point.seconds, point.updates) for point in points] == [(0.0, 0), (4.0, 2), (8.0, 4)]


@pytest.mark.parametrize(("target", "expected"), [(0.5, 2.0), (0.7, 2.0), (0.9, 4.0), (0.95, None)])
def test_the_target_is_reached_with_the_first_version_that_has_it(target, expected):
    points = [Point(1, 0.0, 0, 0.1), Point(2, 2.0, 4, 0.7), Point(3, 3.0, 8, 0.6), Point(4, 4.0, 12, 0.9)]
    assert reached(points, target) == expected
