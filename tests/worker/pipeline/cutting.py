"""A proxy before a door, which cuts connections off: in the middle of a request, or in place of its answer."""

import contextlib
import socket
import struct
import threading
from urllib.parse import urlsplit

# Closing then resets the connection.
_LINGER = struct.pack("ii", 1, 0)


class Cutting:
    """The next `requests` are cut off when `after_bytes` of them have gone through, the next `replies` before a byte of
    them has. `cut` counts."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests = self.replies = self.after_bytes = self.cut = 0
        self._open = []
        self._threads = []
        self._begin(self._accept)

    def _begin(self, call, *arguments):
        thread = threading.Thread(target=call, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                there, _ = self._listening.accept()
                here = socket.create_connection(self._to)
                self._open += [there, here]
                self._begin(self._requests, there, here)
                self._begin(self._replies, there, here)

    def _requests(self, there, here):
        gone = 0
        with contextlib.suppress(OSError):
            while data := there.recv(65536):
                if self.requests and gone + len(data) > self.after_bytes:
                    here.sendall(data[: max(0, self.after_bytes - gone)])
                    self.requests -= 1
                    break
                here.sendall(data)
                gone += len(data)
        self._cut(there, here)

    def _replies(self, there, here):
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                if self.replies:
                    self.replies -= 1
                    break
                there.sendall(data)
        self._cut(there, here)

    def _cut(self, *both):
        self.cut += 1
        for one in both:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self):
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        self._cut(*self._open)
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def cutting(url):
    proxy = Cutting(url)
    try:
        yield proxy
    finally:
        proxy.close()
