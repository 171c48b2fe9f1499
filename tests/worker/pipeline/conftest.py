"""Stages as processes, for the tests beside this file."""

import pytest

from tests.worker.pipeline.replicas import Replicas


@pytest.fixture
def replicas(tmp_path):
    with Replicas(tmp_path) as running:
        yield running
