"""Training data in several files, of which each worker reads its share: real workers and a real server."""

import csv

import numpy as np
import pytest

from leeway.worker.train.tasks.linreg import DEVIATION_CM, MEAN_CM

pytestmark = pytest.mark.e2e

PATTERN = "height-weight/part-*"


@pytest.fixture
def data_dir(tmp_path):
    """Three files of unlike lengths, of people made up for this test."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "data" / "height-weight"
    folder.mkdir(parents=True)
    for number, people in enumerate((40, 25, 60)):
        height = draw.normal(155, 8, people)
        with (folder / f"part-{number}").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerow(["height", "weight", "age", "male"])
            writer.writerows([tall, 0.6 * tall - 48 + draw.normal(), 30, 1] for tall in height)
    return tmp_path / "data"


def best_line(data_dir, shares):
    """Slope and intercept of least squares over those that are trained on: every fifth of a share is held out."""
    kept = []
    for names in shares:
        rows = []
        for name in names:
            with (data_dir / "height-weight" / name).open(newline="") as file:
                rows += [[float(row["height"]), float(row["weight"])] for row in csv.DictReader(file, delimiter=";")]
        kept += [row for number, row in enumerate(rows) if number % 5 != 4]
    height, weight = np.array(kept).T
    return np.polyfit((height - MEAN_CM) / DEVIATION_CM, weight, 1)


def test_two_workers_learn_from_all_files_together(commands, data_dir):
    server = commands.serve("--workers", 2, "--mode", "sync", "--lr", 0.3)
    # A batch holds a whole share, so a round has seen every file: the answer is that of all of them.
    flags = ("--data-dir", data_dir, "--files", PATTERN, "--batch-size", 1000, "--steps", 60)
    for process in commands.workers(2, "linreg", server, *flags):
        process.wait()
    learned = server.parameters()
    expected = best_line(data_dir, [("part-0", "part-2"), ("part-1",)])
    assert [learned["weight"].item(), learned["bias"].item()] == pytest.approx(expected, rel=1e-4)


def test_a_worker_too_many_is_told_and_the_others_go_on(commands, data_dir):
    server = commands.serve("--mode", "async", "--workers", 3, "--lr", 0.01)
    flags = ("--data-dir", data_dir, "--files", PATTERN, "--steps", 400, "--slow", 0.01)
    workers = commands.workers(3, "linreg", server, *flags)
    server.version(at_least=4)
    late = commands.work("linreg", server, "w3", *flags)
    late.wait(code=2)
    (line,) = [line for line in late.errors if line.startswith("ps-worker: ")]
    assert line == (
        "ps-worker: --files are 3, for 4 workers: each needs one at least, so split them into more, or start fewer "
        "workers"
    )
    for worker in workers:
        worker.wait()


@pytest.mark.parametrize(
    ("task", "pattern", "says"),
    [
        ("linreg", PATTERN, "--files are 3, for 4 workers: each needs one at least"),
        ("linreg", "part-*", "--files 'part-*' matches no file in "),
        ("digits", "part-*", "task digits reads its training samples as a whole, not by --files; a9a and linreg can"),
    ],
)
def test_what_cannot_be_dealt_out_is_told_before_anybody_joins(commands, data_dir, task, pattern, says):
    together = 4 if says.startswith("--files are") else 1
    flags = ("--data-dir", data_dir, "--files", pattern, "--start-together", together)
    process = commands.python("worker", "-m", "leeway.worker.train.cli", task, *flags)
    process.wait(code=2)
    (line,) = process.errors
    assert line.startswith(f"ps-worker: {says}")


@pytest.mark.parametrize("people", [1, 40])
def test_what_is_not_held_out_is_not_evaluated(commands, data_dir, people):
    file = data_dir / "height-weight" / "part-0"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[: 1 + people]))
    flags = ("--data-dir", data_dir, "--files", "height-weight/part-0", "--steps", 2, "--evaluate-every", 1)
    launched = commands.launch("linreg", "--workers", 1, *flags)
    launched.wait()
    assert launched.said.count("no samples are held out among those that this worker has read") == (people == 1)
    assert launched.said.count('"event": "evaluated"') == (people == 40)
    assert "NaN" not in launched.said


def test_ps_launch_says_it_once_for_all(commands, data_dir):
    launched = commands.launch("linreg", "--workers", 4, "--data-dir", data_dir, "--files", PATTERN, "--steps", 2)
    launched.wait(code=2)
    assert "--files are 3, for 4 workers" in launched.said
    assert "Traceback" not in launched.said
