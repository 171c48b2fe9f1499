"""What a reader chooses at the top of a dashboard, and the scopes that obey the choice.

The one rule: every query of a dashboard is made in one of these scopes, so it reads what is chosen and nothing else.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, QueryVariable
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh, VariableSort

from dashboards.queries import Scope
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")

_JOB, _INSTANCE, _GROUP, _RANK = 'job=~"$job"', 'instance=~"$instance"', 'group="$group"', 'rank=~"$rank"'

SERVERS: Final = Scope("$__rate_interval", server=(_JOB, _INSTANCE))
"""All of the chosen servers."""

GROUP: Final = Scope("$__rate_interval", server=(_JOB, _INSTANCE), worker=(_JOB,), labels={"group": _GROUP})
"""One group of the chosen servers."""

RANKS: Final = Scope("$__rate_interval", GROUP.server, GROUP.worker, {"group": _GROUP, "rank": _RANK})
"""The chosen workers in one group of the chosen servers."""

# Not the list of all: a regular expression of a thousand names would go into every query.
_ALL = ".+"


def datasource() -> DatasourceVariable:
    return (
        DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the run.")
        .type("prometheus")
    )


def job() -> QueryVariable:
    both = f'{{__name__=~"{server.INFO.name}|{worker.INFO.name}"}}'
    return _several(
        _labels("job", both), "Job", "The scrape jobs of servers and workers. One run of several: its jobs."
    )


def instance() -> QueryVariable:
    here = Scope("", server=(_JOB,)).series(server.INFO)
    return _several(_labels("instance", here), "Server", "The addresses at which servers are scraped.")


def group() -> QueryVariable:
    here = SERVERS.series(server.VERSION)
    description = "The group of tensors, with clocks and a policy of its own. Most runs have one: default."
    return _labels("group", here).label("Group").description(description)


def rank() -> QueryVariable:
    return _several(_labels("rank", GROUP.series(server.CLOCK)), "Rank", "Workers by name.")


def _labels(name: str, series: str) -> QueryVariable:
    """The values that a label of the same name has in the series of the time shown."""
    query = f"label_values({series}, {name})"
    return (
        QueryVariable(name)
        .query({"qryType": 1, "query": query, "refId": f"{name}-variable"})
        .definition(query)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
    )


def _several(variable: QueryVariable, label: str, description: str) -> QueryVariable:
    everything = VariableOption(selected=True, text=["All"], value=["$__all"])
    return (
        variable.label(label).description(description).multi(True).include_all(True).all_value(_ALL).current(everything)
    )
