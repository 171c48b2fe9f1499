"""`ps-top` in a real terminal: a pseudo terminal of its own session, as an emulator gives one to a shell.

The one rule: what is shown is waited for, never slept for; a picture is what stands between two returns to the corner.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from tests.end_to_end.commands import ROOT

PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.05

_CODES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")


class Terminal:
    """A command in a terminal of this size, and what it has shown there. `stdin`: another input than the terminal."""

    def __init__(self, *arguments, columns=80, lines=24, stdin=None, **environment):
        self.shown = ""
        self._ours, self._theirs = pty.openpty()
        self.resize(columns, lines)
        self.attributes = termios.tcgetattr(self._theirs)
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "leeway.ps.top.cli", *arguments],
            stdin=self._theirs if stdin is None else stdin,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
            start_new_session=True,
            preexec_fn=self._control,
        )

    def _control(self):
        fcntl.ioctl(self._theirs, termios.TIOCSCTTY, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def resize(self, columns, lines):
        """As when somebody draws at the window: the foreground job gets SIGWINCH."""
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def type(self, text):
        os.write(self._ours, text.encode())

    def see(self, text, since=0):
        """Wait until this is shown, after so many characters."""
        self.until(lambda: text in self.shown[since:], text)

    def until(self, met, what):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := met()):
            assert time.monotonic() < deadline, f"{what} is not shown:\n{self.shown}"
            ended = self.popen.poll() is not None
            # Not all that is waited for is written: a stopped process says nothing more, so it is looked at again.
            more = self._read(_LOOK_SECONDS)
            assert more or not ended, f"{what} is not shown, and it has ended:\n{self.shown}"
        return found

    def picture(self, meets):
        """The lines of the first picture from now on that meets this condition; the newest may still be on its way."""

        def found():
            frames = self.shown[start:].split("\x1b[H")[1:]
            pictures = (_CODES.sub("", frame).replace("\r", "").split("\n") for frame in frames)
            return next(([line.rstrip() for line in one] for one in pictures if meets(one)), None)

        start = len(self.shown)
        return self.until(found, "such a picture")

    def is_as_found(self):
        """The terminal's attributes are those of before; the alternate screen is left, and the cursor to be seen."""
        left = self.shown.count("\x1b[?1049h") == self.shown.count("\x1b[?1049l")
        seen = self.shown.rfind("\x1b[?25h") >= self.shown.rfind("\x1b[?25l")
        return left and seen and termios.tcgetattr(self._theirs) == self.attributes

    def end(self, number=None):
        """Signal it, if there is something to signal, and wait for its end: its exit code."""
        if number is not None:
            self.popen.send_signal(number)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.popen.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self._read(0.02)
        while self._read(0.0):
            pass
        return self.popen.returncode

    def _read(self, seconds):
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._ours, 65_536)
        except OSError:  # Linux's way to say that nobody is at the other end
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
