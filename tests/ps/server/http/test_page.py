"""The live page as it is served, and that its files need nothing from anywhere else."""

import re
from importlib import resources

import pytest

from leeway.ps.server.http.page import CONTENT_TYPES

PAGE = resources.files("leeway.ps.page")
FILES = sorted(entry.name for entry in PAGE.iterdir() if entry.name.endswith(tuple(CONTENT_TYPES)))

# The names of vocabularies look like addresses; nothing is fetched from there.
NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


def target(name):
    return "/" if name == "index.html" else f"/page/{name}"


def text(name):
    return PAGE.joinpath(name).read_text("utf-8")


def references(name):
    """What a file of the page refers to, as it is written there."""
    found = re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)["']""", text(name))
    if name.endswith(".js"):
        found = re.findall(r"""(?:from|import)\s*\(?\s*["']([^"']+)["']""", text(name))
    if name.endswith(".css"):
        found = re.findall(r"""url\(\s*["']?([^"')]+)["']?\s*\)|@import\s+["']([^"']+)["']""", text(name))
        found = [one or other for one, other in found]
    return found


@pytest.mark.parametrize("name", FILES)
class TestFile:
    async def test_is_served_as_it_lies(self, server, name):
        reply = await server.get(target(name))
        assert (reply.status, reply.body.decode()) == (200, text(name))
        (content_type,) = [value for suffix, value in CONTENT_TYPES.items() if name.endswith(suffix)]
        assert reply.headers["content-type"] == f"{content_type}; charset=utf-8"

    async def test_headers_allow_nothing_from_elsewhere(self, server, name):
        headers = (await server.get(target(name))).headers
        assert headers["content-security-policy"] == (
            "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
            "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"

    async def test_is_asked_for_again_and_not_sent_again(self, server, name):
        first = await server.get(target(name))
        assert first.headers["cache-control"] == "no-cache"
        etag = first.headers["etag"]
        for known in (etag, f'W/{etag}, "other"', "*"):
            again = await server.get(target(name), {"If-None-Match": known})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
            assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
        assert (await server.get(target(name), {"If-None-Match": '"other"'})).status == 200
        assert (await server.request("HEAD", target(name))).headers["content-length"] == str(len(first.body))

    def test_refers_to_nothing_elsewhere(self, name):
        content = text(name)
        for namespace in NAMESPACES:
            content = content.replace(namespace, "")
        assert not re.search(r"\b(?:https?|wss?|ftp):", content)
        # An address without a scheme. Two slashes begin a comment of a script, and are a comment's only.
        assert not re.search(r"""["'(=]\s*//""", content)

    def test_refers_to_what_there_is(self, name):
        for reference in references(name):
            if reference.startswith(("data:", "?")) or re.fullmatch(r"/?(v1/\w+|metrics|openapi\.yaml)", reference):
                continue
            path = reference.removeprefix("/").removeprefix("./").partition("?")[0]
            if name == "index.html":
                assert path.startswith("page/"), reference
                path = path.removeprefix("page/")
            assert path in FILES, f"{name} refers to {reference}"

    def test_has_no_script_or_style_that_the_policy_refuses(self, name):
        if not name.endswith(".html"):
            return
        content = text(name)
        assert not re.search(r"<script(?![^>]*\bsrc=)", content)
        assert not re.search(r"<style|\sstyle\s*=", content)
        assert not re.search(r"\son\w+\s*=", content)


class TestPage:
    def test_has_an_index_and_more(self):
        assert "index.html" in FILES
        assert references("index.html")

    @pytest.mark.parametrize(
        "path", ["nope.js", "index.html", "__init__.py", "..%2Findex.html", "..%2F__init__.py", "%00", "a%2Fb.js", "."]
    )
    async def test_has_no_other_file(self, server, path):
        (await server.get(f"/page/{path}")).refused(404, "not-found")
