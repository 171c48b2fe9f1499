"""What is configured and never used by a worker, most likely for another spelling, is told while the run goes on."""

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.ps.core.endings import Goal
from leeway.ps.settings.config import ServerConfig
from leeway.ps.watching.unused import UPDATES

ONES = {"bias": np.ones(3, np.float32)}


def told(lines, event):
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("figure", ["acuracy", "accuracy"])
async def test_a_figure_that_ends_the_run_and_that_nobody_tells(start, figure):
    server = await start(mode="async", until_metric=Goal.parse(f"{figure}>0.9"))
    await server.offer()
    worker = await server.join("w0")
    with capture_logs() as lines:
        for _ in range(2 * UPDATES):
            await worker.step(ONES, metrics={"accuracy": 0.5, "loss": 2.0})
    found = told(lines, "a figure was not told yet")
    assert [line["name"] for line in found] == ([] if figure == "accuracy" else ["acuracy"])
    assert all(f"in the first {UPDATES} updates were accuracy, loss" in line["detail"] for line in found)


@pytest.mark.parametrize("table", ["embeding", "embedding"])
async def test_settings_of_a_part_that_nobody_joins(start, table):
    named = ServerConfig().with_groups({table: {"mode": "async"}, "head": {"keys": ["dense.*"]}}).named_groups
    server = await start(mode="sync", named_groups=named)
    with capture_logs() as lines:
        await server.join("w0", groups=["embedding", "dense"], create=["embedding", "dense"])
    found = told(lines, "settings of a part are not used yet")
    assert [line["group"] for line in found] == ([] if table == "embedding" else ["embedding", "dense"])
    assert all("nobody has joined embeding" in line["detail"] for line in found)
