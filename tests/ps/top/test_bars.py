import pytest

from leeway.ps.top.bars import bar, columns, spark


@pytest.mark.parametrize(
    ("value", "scale", "bound", "drawn"),
    [
        (0, 4, None, "    "),
        (4, 4, None, "████"),
        (2, 4, None, "██  "),
        (9, 4, None, "████"),
        (1, 100, None, "▏   "),
        (5, 8, None, "██▌ "),
        (0, 4, 3, "   │"),
        (4, 4, 3, "███│"),
        (1, 4, 2, "█ │ "),
        (1, 1, 0, "│███"),
        (1, 4, 4, "█   "),
    ],
)
def test_bars(value, scale, bound, drawn):
    assert bar(value, scale, 4, bound) == drawn


def test_columns():
    assert columns([0, 1, 50, 100, 1000]) == [" ", "▁", "▁", "▁", "█"]
    assert columns([8, 4, 1]) == ["█", "▄", "▁"]
    assert columns([0, 0]) == [" ", " "]
    assert columns([]) == []


def test_curves():
    assert spark([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert spark([8, 8, 1, 1], 2) == "█▁"
    assert spark([3.0], 10) == "▁"
    assert spark([2, 2, 2], 2) == "▁▁"
    assert len(spark(list(range(1000)), 60)) == 60
