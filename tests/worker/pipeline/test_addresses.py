import socket

import pytest

from leeway.errors import SettingError
from leeway.worker.blocking import BlockingClient
from leeway.worker.pipeline.addresses import advertised, route_to
from leeway.worker.pipeline.blocking import BlockingNeighbours
from tests.worker.pipeline.stages import SERVER, stages


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_of_a_server_on_this_machine_it_is_the_loopback():
    assert route_to("http://127.0.0.1:8080") == "127.0.0.1"
    assert route_to("http://localhost") in ("127.0.0.1", "::1")


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
def test_of_a_server_with_ipv6():
    assert route_to("http://[::1]:8080") == "::1"
    with stages(1, host="::1") as (stage,):
        assert stage.address.startswith("http://[::1]:")


def test_of_one_that_nobody_knows():
    with pytest.raises(SettingError, match=r"no way to http://nobody\.invalid:1 from .* give it one to adv"):
        route_to("http://nobody.invalid:1")


@pytest.mark.parametrize(
    ("bound", "advertise", "url"),
    [
        ("http://127.0.0.1:5", None, "http://127.0.0.1:5"),
        ("http://10.1.2.3:5", None, "http://10.1.2.3:5"),
        ("http://0.0.0.0:5", None, "http://10.0.0.7:5"),
        ("http://[::]:5", None, "http://10.0.0.7:5"),
        ("http://[::1]:5", None, "http://[::1]:5"),
        ("http://0.0.0.0:5", "gpu-3.example", "http://gpu-3.example:5"),
        ("http://0.0.0.0:5", "192.0.2.1:6000", "http://192.0.2.1:6000"),
        ("http://0.0.0.0:5", "[2001:db8::1]:6000", "http://[2001:db8::1]:6000"),
        ("http://0.0.0.0:5", "[2001:db8::1]", "http://[2001:db8::1]:5"),
    ],
)
def test_what_the_others_are_told(bound, advertise, url):
    assert advertised(bound, "10.0.0.7", advertise) == url


def test_an_address_of_ipv6_on_the_way():
    assert advertised("http://[::]:5", "2001:db8::7") == "http://[2001:db8::7]:5"


@pytest.mark.parametrize(
    "advertise",
    ["", "http://host:5", "host:port", "host:0", "host:70000", "a b", "host/path", "user@host", ":5", "::1"],
)
def test_what_is_no_address(advertise):
    with pytest.raises(ValueError, match=r"must be HOST or HOST:PORT, IPv6 as \[HOST\]"):
        advertised("http://0.0.0.0:5", "10.0.0.7", advertise)


def test_a_door_at_all_addresses_tells_the_one_on_the_way():
    with stages(1, host="0.0.0.0") as (stage,):
        assert stage.address.startswith("http://127.0.0.1:")
    with stages(1, advertise="stage-0.example:99") as (stage,):
        assert stage.address == "http://stage-0.example:99"


def test_a_host_that_is_none_of_this_machine():
    client = BlockingClient(SERVER, "w0")
    with pytest.raises(SettingError, match=r"the port 0 at 192\.0\.2\.1, .* cannot be had"):
        BlockingNeighbours(client, SERVER, host="192.0.2.1")
    client.close()
