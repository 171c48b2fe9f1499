from __future__ import annotations

import re

from leeway.protocol import routes

PATHS = {name: value for name, value in vars(routes).items() if name.isupper() and value.startswith("/")}
TYPES = {
    name: value for name, value in vars(routes).items() if name.isupper() and re.match(r"(application|text)/", value)
}
HEADERS = {name: value for name, value in vars(routes).items() if name.endswith("_HEADER")}


def test_every_name_is_a_path_a_media_type_or_a_header():
    assert PATHS.keys() | TYPES.keys() | HEADERS.keys() == {name for name in vars(routes) if name.isupper()}


def test_each_is_there_once():
    assert len(set(PATHS.values())) == len(PATHS)
    assert len(set(TYPES.values())) == len(TYPES)


def test_what_a_client_asks_for_carries_the_version_of_the_surface():
    unversioned = {"/metrics", "/livez", "/readyz", "/openapi.yaml", "/", "/page/{file}"}
    assert all(path.startswith("/v1/") != (path in unversioned) for path in PATHS.values())


def test_a_place_in_a_path_takes_a_rank_a_name_or_a_file():
    places = {place for path in PATHS.values() for place in re.findall(r"{(.*?)}", path)}
    assert places == {"rank", "name", "file"}
    assert routes.LEASE.format(rank="w0") == "/v1/workers/w0/lease"


def test_headers_are_ours():
    assert all(header.startswith("Leeway-") for header in HEADERS.values())
