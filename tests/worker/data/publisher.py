"""A web server of the test's own, over real sockets: hands files out whole, in ranges, in part, or not at all."""

import hashlib
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from leeway.worker.data.published import DataSet, Download

CONTENT = bytes(range(256)) * 12_000  # three blocks


class Publisher(ThreadingHTTPServer):
    """Answers with `files[path]`, or sends to `elsewhere[path]`. `asked`: each request's path and Range.

    `reason`: what is said with a 404. `knows_ranges` False: whatever is asked for, the whole comes. `breaks_after`:
    each reply breaks off after so many bytes; `pauses_after`: it waits there until `go_on`.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked = []
        self.elsewhere = {}
        self.reason = None
        self.knows_ranges = True
        self.breaks_after = None
        self.pauses_after = None
        self.go_on = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        publisher, wanted = self.server, self.headers.get("Range")
        publisher.asked.append((self.path, wanted))
        if target := publisher.elsewhere.get(self.path):
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = publisher.files.get(self.path)
        if content is None:
            self.send_error(404, publisher.reason)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and publisher.knows_ranges else 0
        if begin >= len(content) and begin:
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if publisher.pauses_after is not None:
            self.wfile.write(content[begin : publisher.pauses_after])
            publisher.go_on.wait()
            begin = publisher.pauses_after
        with suppress(ConnectionError):
            self.wfile.write(content[begin:][: publisher.breaks_after])
        self.close_connection = publisher.breaks_after is not None

    def log_message(self, *_):
        pass


@contextmanager
def publishing(files):
    publisher = Publisher(files)
    thread = threading.Thread(target=publisher.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield publisher
    finally:
        publisher.go_on.set()
        publisher.shutdown()
        thread.join()
        publisher.server_close()


def download_of(content, path="file", members=(), addresses=()):
    """What would be published of this content."""
    return Download(path, len(content), hashlib.sha256(content).hexdigest(), "of a test", tuple(addresses), members)


def data_set_of(*downloads, folder="set"):
    return DataSet("set", "Example Set", folder, "digits", downloads)


class Watched:
    """Keeps what it is told."""

    def __init__(self):
        self.sizes = []
        self.problems = []

    def received(self, size_bytes):
        self.sizes.append(size_bytes)

    def failed(self, problem):
        self.problems.append(problem)
