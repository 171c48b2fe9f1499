from __future__ import annotations

import pytest

from tests.demo import ending
from tests.demo.stage import RunFailed


@pytest.fixture(autouse=True)
def signals_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, 0, ""),
        (RunFailed("a worker failed\n  w0 | why"), 1, "demo: a worker failed\n  w0 | why\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_it_ends(capsys, raised, code, said):
    def main() -> int:
        if raised:
            raise raised
        return 0

    with pytest.raises(SystemExit) as ended:
        ending.run("demo", main)
    assert ended.value.code == code
    assert capsys.readouterr().err == said
