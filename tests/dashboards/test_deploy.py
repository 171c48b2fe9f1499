"""`deploy/`: compose file, image, and the configuration of Prometheus and Grafana agree with each other and with us."""

import ast
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path, PurePosixPath

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

import leeway.ps.cli
import leeway.worker.train.cli
from dashboards.variables import SOURCE
from leeway.protocol import routes
from tests.dashboards.boards import BOARDS, BUILT
from tests.system import require

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCHEMA = json.loads(Path(__file__).with_name("compose_schema.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
SOURCES = yaml.safe_load((DEPLOY / "grafana" / "datasources" / "prometheus.yaml").read_text())
PROVIDERS = yaml.safe_load((DEPLOY / "grafana" / "dashboards" / "leeway.yaml").read_text())

OURS = {name: service for name, service in SERVICES.items() if service["image"] == "leeway"}
WORKERS = {name: service for name, service in OURS.items() if service["command"][0] == "ps-worker"}


def mounts(service):
    """What is mounted where: names of volumes and paths of this repository, by the path in the container."""
    return {PurePosixPath(mount.split(":")[1]): mount.split(":")[0] for mount in SERVICES[service].get("volumes", [])}


def behind(service, path):
    """The file of this repository that the container sees at `path`; None when it sees none."""
    for place, source in mounts(service).items():
        if PurePosixPath(path).is_relative_to(place) and source.startswith("."):
            found = (DEPLOY / source / PurePosixPath(path).relative_to(place)).resolve()
            return found if found.exists() else None
    return None


def flags(service):
    """The flags of a command by name: `--port=8080`."""
    return dict(
        word.removeprefix("--").partition("=")[::2] for word in SERVICES[service]["command"] if word[:2] == "--"
    )


# The compose file.


def test_the_compose_file_keeps_the_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(COMPOSE, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda compose: compose["services"]["server"].update(port=["8080"]),
        lambda compose: compose["services"]["server"].update(ports=["8080:8080"]),
        lambda compose: compose["services"]["server"]["healthcheck"].update(interval="2"),
        lambda compose: compose["services"]["server"].pop("image"),
        lambda compose: compose["services"]["grafana"].update(environment={"GF_X": True}),
        lambda compose: compose.update(version="3.8"),
    ],
)
def test_the_schema_is_strict(spoil):
    spoilt = json.loads(json.dumps(COMPOSE))
    spoil(spoilt)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("service", SERVICES)
def test_everything_that_is_mounted_is_there(service):
    for place, source in mounts(service).items():
        if source.startswith("."):
            assert (DEPLOY / source).exists(), f"{source} at {place}"
        else:
            assert source in COMPOSE["volumes"]


def test_every_volume_is_used():
    used = {source for service in SERVICES for source in mounts(service).values() if not source.startswith(".")}
    assert used == set(COMPOSE["volumes"])


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_waits_for_is_there(service):
    waits_for = SERVICES[service].get("depends_on", {})
    assert set(waits_for) <= set(SERVICES)
    if isinstance(waits_for, dict):
        for other, how in waits_for.items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


def test_nothing_is_pulled_untagged():
    for service in SERVICES.values():
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_the_server_s_command_is_valid():
    program, *words = SERVICES["server"]["command"]
    assert program == "ps-serve"
    shown = CliRunner().invoke(leeway.ps.cli.command, ["config", "show", *words])
    assert shown.exit_code == 0, shown.output
    assert int(flags("server")["workers"]) == len(WORKERS)


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_s_command_is_valid(service, monkeypatch):
    known = {option.envvar for options in leeway.worker.train.cli.SECTIONS.values() for option in options}
    for name, value in SERVICES[service]["environment"].items():
        assert name in known or not name.startswith("PS_")
        monkeypatch.setenv(name, value)
    _, *words = SERVICES[service]["command"]
    with leeway.worker.train.cli.command.make_context("ps-worker", words) as context:
        assert context.params["rank"] == service, "so that the target's name says whose it is"
        assert context.params["server"] == f"http://server:{flags('server')['port']}"


def test_the_server_is_healthy_when_it_answers():
    *_, script = SERVICES["server"]["healthcheck"]["test"]
    urls = [node.value for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Constant)]
    assert urls == [f"http://127.0.0.1:{flags('server')['port']}{routes.LIVE}"]


def test_a_published_port_is_one_that_is_listened_at():
    listened = {"server": flags("server")["port"], "prometheus": "9090", "grafana": "3000"}
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {name: [f"127.0.0.1:{port}:{port}"] for name, port in listened.items()}


# The image.


def test_the_image_holds_all_packages():
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name for name in project["tool"]["setuptools"]["packages"]["find"]["include"] if "." not in name}
    assert packages <= sources
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == sources
    for service in OURS.values():
        assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert set(service["build"]["args"]) == {"PIP_ARGS"}


def test_the_programs_are_those_that_are_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {service["command"][0] for service in OURS.values()} <= set(project["project"]["scripts"])


def test_the_server_may_write_its_state():
    assert flags("server")["state-dir"] == "/state"
    assert PurePosixPath("/state") in mounts("server")
    assert "--owner=leeway /state" in (DEPLOY / "Dockerfile").read_text()


# Prometheus.


def test_prometheus_reads_this_run():
    targets = {
        config["job_name"]: [target for group in config["static_configs"] for target in group["targets"]]
        for config in PROMETHEUS["scrape_configs"]
    }
    assert targets == {
        "leeway": [f"server:{flags('server')['port']}"],
        "leeway-workers": [f"{name}:{one['environment']['PS_METRICS_PORT']}" for name, one in WORKERS.items()],
    }


def test_promtool_takes_the_configuration_as_it_is_mounted(tmp_path):
    home = PurePosixPath(flags("prometheus")["config.file"]).parent
    for place, source in mounts("prometheus").items():
        if place.is_relative_to(home):
            copy = shutil.copytree if (DEPLOY / source).is_dir() else shutil.copy
            copy(DEPLOY / source, tmp_path / place.relative_to(home))
    checked = subprocess.run(
        [require("promtool"), "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rules = [name for name in BUILT if name.startswith("prometheus/")]
    assert checked.stdout.count("rules found") == len(rules)
    assert (tmp_path / "targets" / "workers.yaml").exists()


# Grafana.


def test_grafana_finds_the_source():
    [source] = SOURCES["datasources"]
    assert source["type"] == SOURCE.type_val
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]


def test_grafana_finds_the_dashboards():
    [provider] = PROVIDERS["providers"]
    path = provider["options"]["path"]
    assert {behind("grafana", f"{path}/{name.partition('/')[2]}") for name in BOARDS} == {
        ROOT / "dashboards" / name for name in BOARDS
    }
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert behind("grafana", home) == ROOT / "dashboards" / "grafana" / "training.json"
    for folder in ("datasources", "dashboards"):
        assert behind("grafana", f"/etc/grafana/provisioning/{folder}") == DEPLOY / "grafana" / folder
