"""What `make kills` does at length, in short: whatever is killed, the same accuracy, and no batch lost or counted twice."""

import pytest

from tests.load import kills

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_eight_kills(mode, tmp_path):
    (tmp_path / "alone").mkdir()
    alone = kills.run(tmp_path / "alone", mode, 0, seed=1)
    (tmp_path / "hit").mkdir()
    hit = kills.run(tmp_path / "hit", mode, 8, seed=1, away_seconds=0.5)
    assert alone.exact
    assert hit.exact, (hit.committed, hit.batches)
    assert len({(kill.rank, kill.stage) for kill in hit.kills}) > 2
    assert hit.accuracy >= alone.accuracy - 0.03
    assert hit.accuracy > 0.93
