import pytest

from leeway.protocol.ranks import is_rank
from leeway.worker.environment import Placement, default_rank, placement, rank

PLACES = {
    "torchrun": ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 3, 8),
    "Slurm": ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, 5, 6),
    "Kubernetes Job": ({"JOB_COMPLETION_INDEX": "2", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 2, None),
    "Kubernetes StatefulSet": (
        {"HOSTNAME": "my-worker-12", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        12,
        None,
    ),
}


@pytest.mark.parametrize("source", PLACES)
def test_what_launchers_say(source):
    environ, number, world = PLACES[source]
    assert placement(environ) == Placement(number, world, source)
    assert rank(environ) == default_rank(environ) == f"w{number}"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "3"},
        {"WORLD_SIZE": "4"},
        {"SLURM_PROCID": "3"},
        {"HOSTNAME": "node-3"},
        {"HOSTNAME": "worker", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        # A Deployment's pod.
        {"HOSTNAME": "worker-7d9f8b6c5-24567", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_one_variable_alone_says_nothing(environ):
    assert placement(environ) is None
    assert rank(environ) is None
    assert is_rank(default_rank(environ))


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "RANK is '-1', it must be a number from 0"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK is 4, it must be below WORLD_SIZE, which is 4"),
        ({"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX is ''"),
    ],
)
def test_contradictions_are_told(environ, words):
    with pytest.raises(ValueError, match=words):
        placement(environ)


def test_the_name_without_a_launcher_fits_whatever_the_host_is_called(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "höst " * 30)
    assert is_rank(default_rank({}))
