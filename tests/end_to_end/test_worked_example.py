"""`docs/tutorial/worked-example.md`: its scripts with real servers and workers print what it shows, and its prose has
no number that they do not print. `test_docs` runs the script that needs no server."""

import re

import pytest

from tests.end_to_end.commands import ROOT

PAGE = (ROOT / "docs" / "tutorial" / "worked-example.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
BY_HAND, WORKER, TURNS = [text for language, text in BLOCKS if language == "python"]
HAND_OUTPUT, SYNC, ASYNC, HALF_RATE = [text for language, text in BLOCKS if not language]
SERVERS = re.findall(r"^\$ ps-serve (.*)$", PAGE, re.MULTILINE)

ADDRESS = "http://127.0.0.1:8080"


def numbers(text):
    return re.findall(r"-?\d+\.\d{4}\b", text)


def test_the_prose_names_no_number_that_is_not_shown():
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(numbers(prose)) > 10
    assert set(numbers(prose)) <= set(numbers(HAND_OUTPUT + SYNC + ASYNC + HALF_RATE))


def test_sync_has_the_numbers_of_one_process():
    one = [numbers(line) for line in HAND_OUTPUT.splitlines() if line.startswith("one process")]
    assert [numbers(line) for line in SYNC.splitlines()] == one * 2


@pytest.fixture
def saved(commands):
    """A function that saves a script of the page for this server."""

    def save(text, server):
        path = commands.folder / "script.py"
        path.write_text(text.replace(ADDRESS, server.url), encoding="utf-8")
        return path

    return save


@pytest.mark.e2e
def test_two_workers_under_sync(commands, saved):
    server = commands.serve(*SERVERS[0].split())
    script = saved(WORKER, server)
    workers = [commands.python(rank, script, rank) for rank in ("w0", "w1")]
    for worker in workers:
        worker.wait()
    assert [line for worker in workers for line in worker.lines] == SYNC.splitlines()


@pytest.mark.e2e
@pytest.mark.parametrize(("flags", "shown"), [(SERVERS[1], ASYNC), (SERVERS[2], HALF_RATE)], ids=["full rate", "half"])
def test_two_workers_that_take_turns_under_async(commands, saved, flags, shown):
    server = commands.serve(*flags.split())
    turns = commands.python("turns", saved(TURNS, server))
    turns.wait()
    assert turns.lines == shown.splitlines()


@pytest.mark.e2e
def test_ps_worker_ends_at_the_same_numbers(commands):
    (flags,) = re.findall(r"`ps-launch heights (.*?)`", PAGE)
    serving, working = flags.partition(" --steps ")[::2]
    server = commands.serve(*serving.split())
    for process in commands.workers(2, "heights", server, "--steps", *working.split()):
        process.wait()
    learned = server.parameters()
    shown = [f"{learned[name].item():.4f}" for name in ("bias", "weight")]
    assert shown == numbers(SYNC.splitlines()[2])
