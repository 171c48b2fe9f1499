"""Grafana dashboards and Prometheus rules of a run, as code: `python -m dashboards` writes the JSON and YAML beside it.

The one rule: a metric is named by the object of its catalogue, never by a string, so none can be renamed and be missed.

`queries` turns metrics into PromQL; `panels`, `variables` and `board` into what Grafana reads; `training`, `staleness`
and `server` are the three dashboards; `rules` and `alerts` what Prometheus computes and watches by itself.
"""

import warnings

with warnings.catch_warnings():
    # At its first import the SDK recommends the second schema of dashboards, which only new Grafanas read from a file.
    # The first one is what provisioning, import and every Grafana since 10 understand.
    warnings.simplefilter("ignore", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.builders.prometheus  # noqa: F401
