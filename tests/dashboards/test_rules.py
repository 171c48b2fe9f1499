import re
import subprocess

import pytest
import yaml

from dashboards import rules
from dashboards.rules import Rules
from tests.dashboards.boards import BUILT, names_in, series_names
from tests.system import require


@pytest.mark.parametrize("name", ["prometheus/rules.yaml", "prometheus/alerts.yaml"])
def test_promtool_takes_them(tmp_path, name):
    (tmp_path / "rules.yaml").write_text(BUILT[name])
    checked = subprocess.run(
        [require("promtool"), "check", "rules", "--lint-fatal", "rules.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_file_holds_every_rule():
    [group] = yaml.safe_load(BUILT["prometheus/rules.yaml"])["groups"]
    assert group["name"] == rules.NAME
    assert group["rules"] == [{"record": one.name, "expr": one.expression} for one in Rules().all()]


@pytest.mark.parametrize("rule", Rules().all(), ids=lambda rule: rule.name)
def test_a_rule_is_named_after_what_it_is_made_of(rule):
    level, metric, operation = rule.name.split(":")
    assert metric in {re.sub(r"_(bucket|count|sum)$", "", name) for name in names_in(rule.expression)}
    assert re.fullmatch(r"(rate|mean|p99_)5m", operation)
    assert names_in(rule.expression) <= series_names()
    assert set(level.split("_")) <= {"group", "rank", "route", "instance"}


def test_names_are_used_once():
    names = [rule.name for rule in Rules().all()]
    assert len(set(names)) == len(names)


def test_another_window_has_other_names():
    assert not {rule.name for rule in Rules("5s").all()} & {rule.name for rule in Rules().all()}
