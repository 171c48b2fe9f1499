"""Where a worker's metrics are served: any worker's, for as long as its session is there."""

import gc
import http.client
import socket
import traceback
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families as parse
from structlog.testing import capture_logs
from torch import nn

import leeway
from leeway.errors import SettingError
from leeway.transport.credentials.credentials import Credentials
from leeway.worker.watching.serving import Place
from tests.transport.credentials.clusters import Keys
from tests.worker.test_against_server import serving

pytestmark = pytest.mark.usefixtures("one_thread")


def text_of(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read().decode()


def scraped(url):
    """What is served, by metric and labels, buckets left out."""
    samples = [sample for family in parse(text_of(url)) for sample in family.samples]
    return {(sample.name.removeprefix("leeway_worker_"), *sample.labels.values()): sample.value for sample in samples}


def refused(url):
    try:
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=30):
            return False
    except ConnectionRefusedError:
        return True


def backward(net, value=1.0):
    net(torch.full((8, 4), value)).square().mean().backward()


@pytest.fixture(scope="module")
def server():
    with serving("--mode", "async", "--lr", "0.01") as (_, url):
        yield url


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Linear(4, 2)


@pytest.mark.e2e
class TestScrape:
    def test_of_a_script_with_a_loop_of_its_own(self, server, net):
        with capture_logs() as logs, leeway.connect(server, "w0", metrics_port=0) as session:
            session.attach(net)
            assert ("loss",) not in scraped(session.metrics_url)
            for loss in (3.0, 0.5):
                backward(net)
                session.report(loss=loss, test_accuracy=0.75)
                session.step(samples=8)
            session.skip()
            backward(net, float("nan"))
            session.step(samples=8)
            found = scraped(session.metrics_url)
            times = session.times
        assert {"event": "metrics are served", "url": session.metrics_url, "log_level": "info"} in logs
        assert [name for name in found if name[:2] == ("info", "w0")]
        assert found["clock",] == 4
        assert (found["samples_total",], found["loss",], found["evaluation", "accuracy"]) == (16, 0.5, 0.75)
        assert (found["pushes_total", "applied"], found["pushes_total", "skipped"]) == (2, 2)
        assert (found["skips_total", "asked"], found["skips_total", "non-finite"]) == (1, 1)
        assert (found["lag",], found["staleness",]) == (0, 0)
        for name in ("step_seconds", "compute_seconds", "push_seconds", "pull_seconds"):
            assert found[f"{name}_count",] == 4
            assert found[f"{name}_sum",] > 0
        assert found["wait_seconds_count",] == 4
        assert found["compute_seconds_sum",] >= times.compute_seconds
        assert found["sent_bytes_total",] > 0
        assert found["received_bytes_total",] > 0

    def test_of_a_wrapped_optimizer(self, server, net, monkeypatch):
        monkeypatch.setenv("PS_METRICS_PORT", "0")
        sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer = leeway.wrap(sgd, net, url=server, rank="w1", samples=5, server_optimizer=True)
        with optimizer.session as session:
            for _ in range(3):
                optimizer.zero_grad()
                backward(net)
                optimizer.step()
            assert scraped(session.metrics_url)["samples_total",] == 15

    def test_the_address_alone_says_where_they_are(self, server):
        with leeway.connect(server, "w2", metrics_port=0) as session:
            url = session.metrics_url.removesuffix("/metrics")
            assert text_of(url) == "the metrics of this worker are at /metrics\n"

    def test_nothing_is_served_unless_asked_for(self, server):
        with leeway.connect(server, "w2") as session:
            assert session.metrics_url is None


@pytest.mark.e2e
class TestTheEnd:
    def test_comes_with_that_of_the_session(self, server):
        session = leeway.connect(server, "w3", metrics_port=0)
        url = urlsplit(session.metrics_url)
        # A scraper's connection that stays open is not waited for.
        idle = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        idle.request("GET", "/metrics")
        assert idle.getresponse().read()
        session.close()
        assert refused(session.metrics_url)
        session.close()
        idle.close()

    def test_comes_when_nobody_refers_to_the_session(self, server):
        session = leeway.connect(server, "w4", metrics_port=0)
        url, thread = session.metrics_url, session.client._background.thread
        del session
        gc.collect()
        thread.join(30)
        assert refused(url)

    def test_comes_where_the_server_refuses_the_worker(self, server):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with pytest.raises(leeway.WireError):
            leeway.connect(server, "w5", group="nobody", metrics_port=port)
        assert refused(f"http://127.0.0.1:{port}/metrics")

    def test_frees_the_port_for_the_next_session(self, server):
        with leeway.connect(server, "w6", metrics_port=0) as session:
            port = urlsplit(session.metrics_url).port
        with leeway.connect(server, "w6", metrics_port=port) as session:
            assert scraped(session.metrics_url)["clock",] == 0


class TestPlace:
    def test_arguments_go_before_the_environment(self):
        environment = {"PS_METRICS_PORT": "9100", "PS_METRICS_HOST": "0.0.0.0"}
        assert Place.chosen(None, None, environment) == Place("0.0.0.0", 9100)
        assert Place.chosen(0, "::1", environment) == Place("::1", 0)
        assert Place.chosen(9100, None, {}) == Place("127.0.0.1", 9100)
        assert Place.chosen(9100, "", {}) == Place("127.0.0.1", 9100)
        assert Place.chosen(None, None, {"PS_METRICS_PORT": ""}) is None
        assert Place.chosen(None, "", {"PS_METRICS_HOST": "::1"}) is None

    @pytest.mark.parametrize(
        ("port", "host", "environment", "words"),
        [
            (65536, None, {}, "metrics_port is 65536, it must be at most 65535"),
            ("9100", None, {}, "metrics_port is '9100', it must be an integer"),
            (None, None, {"PS_METRICS_PORT": "http"}, "variable PS_METRICS_PORT is 'http', it must be a port, or 0"),
            (None, None, {"PS_METRICS_PORT": "99999"}, "variable PS_METRICS_PORT is 99999, it must be at most 65535"),
            (0, "a b", {}, "metrics_host is 'a b', it must be an address"),
            (0, 0, {}, "metrics_host is 0, it must be text such as 127.0.0.1"),
            (None, 0, {}, "metrics_host is 0, it must be text such as 127.0.0.1"),
            (None, "0.0.0.0", {}, "metrics_host is '0.0.0.0', and no metrics are served: give metrics_port= too"),
            (None, "::1", {"PS_METRICS_PORT": "", "PS_METRICS_HOST": "::1"}, "no metrics are served"),
        ],
    )
    def test_mistakes(self, port, host, environment, words):
        with pytest.raises(ValueError, match=words):
            Place.chosen(port, host, environment)

    def test_a_port_in_use_is_the_users_to_change(self):
        # Before anybody is asked: there is no server.
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            words = f"metrics port {port} at 127.0.0.1 cannot be had: it is in use; ch"
            with pytest.raises(SettingError, match=words) as refused:
                leeway.connect("http://127.0.0.1:9", "w7", metrics_port=port)
        shown = "".join(traceback.format_exception(refused.value))
        assert "OSError" not in shown, "there is a second traceback above it"

    def test_an_address_that_is_not_this_machines(self, monkeypatch):
        monkeypatch.setenv("PS_METRICS_INSECURE", "1")
        with pytest.raises(ValueError, match=r"at 192.0.2.1 cannot be had: .*; choose another"):
            leeway.connect("http://127.0.0.1:9", "w8", metrics_port=0, metrics_host="192.0.2.1")

    def test_an_address_of_version_6(self, far_server):
        far_server.then(far_server.joined(), far_server.refused("left"))
        with leeway.connect(far_server.url, "w0", metrics_port=0, metrics_host="::1") as session:
            assert session.count == 1
            assert session.metrics_url.startswith("http://[::1]:")
            assert scraped(session.metrics_url)["clock",] == 0


@pytest.mark.e2e
class TestWhoMayRead:
    def test_no_foreign_page(self, server):
        with leeway.connect(server, "w0", metrics_port=0) as session:
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(urllib.request.Request(session.metrics_url, headers=headers), timeout=30)

    def test_beyond_this_machine_nobody_unless_that_was_said(self, server):
        for host in ("0.0.0.0", "::", "192.0.2.1", "trainer.example.com"):
            with pytest.raises(
                SettingError, match=f"at {host} whoever reaches the metrics port could read them: give ca"
            ):
                leeway.connect(server, "w0", metrics_port=0, metrics_host=host)
        assert Place.chosen(1, "0.0.0.0", {"PS_METRICS_INSECURE": "1"}) == Place("0.0.0.0", 1, insecure=True)
        assert Place.chosen(1, None, {}, insecure=True).insecure

    def test_who_has_a_certificate_of_the_same_authority(self, server, tmp_path, monkeypatch):
        # As if this were an address that others reach.
        monkeypatch.setattr("leeway.worker.watching.serving.is_loopback", lambda host: False)
        keys, others = Keys(tmp_path / "cluster"), Keys(tmp_path / "others")
        for name, value in keys.variables("w0").items():
            monkeypatch.setenv(name, value)
        with leeway.connect(server, "w0", metrics_port=0) as session:
            assert session.metrics_url.startswith("https://127.0.0.1:")
            place = urlsplit(session.metrics_url)
            shown = keys.credentials("reader")
            assert b"leeway_worker_clock" in scraped_over_tls(place, shown)
            for stranger in (Credentials(None, keys.ca), Credentials(None, keys.ca, others.pair("reader"))):
                with pytest.raises(OSError, match="ALERT"):
                    scraped_over_tls(place, stranger)


def scraped_over_tls(place, shown):
    """As Prometheus does with `server_name`: a worker is wherever it runs, and known by the name of all workers."""
    with (
        socket.create_connection((place.hostname, place.port), timeout=30) as plain,
        shown.to_client().wrap_socket(plain, server_hostname="leeway-worker") as over_tls,
    ):
        over_tls.sendall(b"GET /metrics HTTP/1.1\r\nHost: w0:9100\r\nConnection: close\r\n\r\n")
        with over_tls.makefile("rb") as reply:
            return reply.read()
