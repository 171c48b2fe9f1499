from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from leeway.ps.watching.tracks import Track

seconds = st.floats(0, 1e6)


@given(st.lists(st.tuples(seconds, seconds)))
def test_slices_never_overlap_whatever_is_drawn(spans: list[tuple[float, float]]) -> None:
    made: list[dict[str, Any]] = []
    track = Track(1, 2, made.append)
    for begin, end in spans:
        track.slice("one", "kind", begin, end, {})
    free_from = 0
    for one in made:
        assert one["ts"] >= free_from
        assert one["dur"] >= 0
        free_from = one["ts"] + one["dur"]


def test_a_slice_and_a_mark() -> None:
    made: list[dict[str, Any]] = []
    track = Track(3, 4, made.append)
    track.slice("compute", "work", 1.0, 1.5, {"clock": 2})
    track.instant("switch", 2.0, {}, scope="g")
    assert made == [
        {
            **{"name": "compute", "cat": "work", "ph": "X", "ts": 1_000_000, "dur": 500_000},
            **{"pid": 3, "tid": 4, "args": {"clock": 2}},
        },
        {
            **{"name": "switch", "cat": "decision", "ph": "i", "s": "g", "ts": 2_000_000},
            **{"pid": 3, "tid": 4, "args": {}},
        },
    ]
