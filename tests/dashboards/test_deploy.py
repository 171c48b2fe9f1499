"""`deploy/`: compose file, image, and the configuration of Prometheus and Grafana agree with each other and with us."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
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
from leeway.ps.keys.cluster import WORKER_NAME
from leeway.transport.credentials import tls
from leeway.transport.credentials.credentials import Credentials
from leeway.transport.credentials.tokens import Tokens
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


class Made:
    """What the service `keys` makes of its volumes: its script, run here, as far as this user can."""

    def __init__(self, folder):
        *shell, script = SERVICES["keys"]["command"]
        for place in mounts("keys"):
            (folder / place.name).mkdir()
            script = script.replace(str(place), str(folder / place.name))
        # Who owns a file in the containers, nobody here may be.
        (folder / "chown").write_text("#!/bin/sh\n")
        (folder / "chown").chmod(0o755)
        path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run([*shell, script.replace("$$", "$")], env=os.environ | {"PATH": path}, check=True, timeout=60)
        self.folder = folder

    def seen(self, text):
        """A word of a command with the place of a volume in it."""
        return re.sub(r"/(for-\w+)", lambda found: str(self.folder / found[1]), text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("volumes"))


def test_everybody_is_given_what_is_theirs_alone(made):
    found = {path.name: sorted(file.name for file in path.iterdir()) for path in made.folder.iterdir() if path.is_dir()}
    pair = ["ca.pem", "cert.pem", "key.pem"]
    assert {name: files for name, files in found.items() if name != "cluster"} == {
        "for-server": [*pair, "tokens.toml"],
        "for-workers": list(WORKERS),
        "for-prometheus": [*pair, "token"],
        "for-grafana": ["password"],
    }
    for path in made.folder.glob("*/*"):
        assert not path.stat().st_mode & 0o077, path
    given = {
        service: {source for source in mounts(service).values() if source.startswith("for-")} for service in SERVICES
    }
    assert given.pop("keys") == {name for name in found if name != "cluster"}
    assert {service: sources for service, sources in given.items() if len(sources) != 1} == {}
    assert [service for service in SERVICES if "cluster" in mounts(service).values()] == ["keys"]


def test_the_server_s_command_is_valid(made):
    program, *words = SERVICES["server"]["command"]
    assert program == "ps-serve"
    words = list(map(made.seen, words))
    shown = CliRunner().invoke(leeway.ps.cli.command, ["config", "show", *words])
    assert shown.exit_code == 0, shown.output
    assert int(flags("server")["workers"]) == len(WORKERS)


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_s_command_is_valid(service, monkeypatch, made):
    known = {option.envvar for options in leeway.worker.train.cli.SECTIONS.values() for option in options}
    for name, value in SERVICES[service]["environment"].items():
        assert name in known or not name.startswith("PS_")
        monkeypatch.setenv(name, made.seen(value))
    _, *words = SERVICES[service]["command"]
    with leeway.worker.train.cli.command.make_context("ps-worker", words) as context:
        assert context.params["rank"] == service, "so that the target's name says whose it is"
        assert context.params["server"] == f"https://server:{flags('server')['port']}"
        shown = Credentials.chosen({}, *(context.params[name] for name in ("token_file", "ca", "cert", "key")))
    tokens = Tokens.read(made.folder / "for-server" / "tokens.toml")
    caller = tokens.caller(shown.headers["Authorization"].removeprefix("Bearer "))
    assert caller.ranks == {service}


def test_the_server_is_healthy_when_it_answers():
    *_, script = SERVICES["server"]["healthcheck"]["test"]
    urls = [node.value for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Constant)]
    assert f"https://127.0.0.1:{flags('server')['port']}{routes.LIVE}" in urls
    assert "/for-server/ca.pem" in urls


def test_the_server_s_certificate_is_for_all_who_ask(made):
    names = tls.names(made.folder / "for-server" / "cert.pem")
    assert {"server", "127.0.0.1", "localhost"} <= set(names)


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
    used = {service["command"][0] for name, service in OURS.items() if name != "keys"}
    assert used | {"ps-keys"} <= set(project["project"]["scripts"])
    assert "ps-keys make" in SERVICES["keys"]["command"][-1]


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


def test_prometheus_shows_who_it_is():
    server, workers = PROMETHEUS["scrape_configs"]
    assert server["scheme"] == workers["scheme"] == "https"
    assert server["authorization"] == {"credentials_file": "reader/token"}
    assert workers["tls_config"]["server_name"] == WORKER_NAME
    for config in (server, workers):
        assert "insecure_skip_verify" not in config["tls_config"]


def test_promtool_takes_the_configuration_as_it_is_mounted(tmp_path, made):
    home = PurePosixPath(flags("prometheus")["config.file"]).parent
    for place, source in mounts("prometheus").items():
        if place.is_relative_to(home):
            copy = shutil.copy if (DEPLOY / source).is_file() else shutil.copytree
            copy(DEPLOY / source if source[0] == "." else made.folder / source, tmp_path / place.relative_to(home))
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
