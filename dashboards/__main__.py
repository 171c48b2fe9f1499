"""`python -m dashboards [FOLDER]`: writes the dashboards for Grafana and the rules for Prometheus, here by default."""

from __future__ import annotations

import sys
from pathlib import Path

from dashboards import alerts, rules, server, staleness, training
from dashboards.board import encoded

HERE = Path(__file__).parent


def built() -> dict[str, str]:
    """Every file that is built, by its path below the folder."""
    return {
        "grafana/training.json": encoded(training.build()),
        "grafana/staleness.json": encoded(staleness.build()),
        "grafana/server.json": encoded(server.build()),
        "prometheus/rules.yaml": rules.Rules().encoded(),
        "prometheus/alerts.yaml": alerts.encoded_alerts(),
    }


def write(folder: Path) -> None:
    """Write them below `folder`. The same input gives the same bytes."""
    for name, text in built().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
