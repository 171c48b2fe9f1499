"""What `make kills` does at length, in short: the same accuracy whatever is killed, and no batch lost or repeated."""

import pytest

from tests.load import kills

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_eight_kills(mode, tmp_path):
    for name in ("hit", "alone"):
        (tmp_path / name).mkdir()
    hit = kills.run(tmp_path / "hit", mode, 8, seed=1, away_seconds=0.5, batches=150)
    alone = kills.run(tmp_path / "alone", mode, 0, seed=1, batches=min(hit.committed))
    assert alone.exact
    assert hit.exact, (hit.committed, hit.batches)
    assert len({(kill.rank, kill.stage) for kill in hit.kills}) > 2
    assert hit.accuracy >= alone.accuracy - 0.03
    assert hit.accuracy > 0.93
