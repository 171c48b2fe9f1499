"""Settings of a worker: one helpful sentence for each that is wrong, and who is slow when."""

from __future__ import annotations

import pytest

from leeway.errors import SettingError
from leeway.protocol import limits
from leeway.protocol.ranks import NAME_WORDS
from leeway.worker.train.config import LONGEST_TAIL, WorkerConfig


def config(**settings: object) -> WorkerConfig:
    return WorkerConfig(**({"task": "digits", "server": "http://127.0.0.1:8080", "rank": "w0"} | settings))


@pytest.mark.parametrize("server", ["http://127.0.0.1:8080", "https://ps.example.org/", "http://[::1]:80"])
def test_a_server_is_a_url(server: str) -> None:
    assert config(server=server).server == server


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
def test_devices(device: str) -> None:
    assert config(device=device).device == device


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"task": ""}, "TASK is ''; it must be the name of a task"),
        (
            {"server": "localhost:80"},
            "--server: the server's address 'localhost:80' has no scheme; write http://localhost:80",
        ),
        (
            {"server": "http://"},
            "--server: the server's address 'http://' has no host; it must be scheme, host, port and path, for example"
            " http://localhost:8080",
        ),
        ({"rank": "a b"}, f"--rank is 'a b'; it must be {NAME_WORDS}"),
        ({"steps": 0}, "--steps is 0; it must be 1 or more"),
        ({"batch_size": 0}, "--batch-size is 0; it must be 1 or more"),
        ({"seed": -1}, "--seed is -1; it must be 0 or more"),
        ({"device": "tpu"}, "--device is 'tpu'; it must be auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:"}, "--device is 'cuda:'; it must be auto, cpu, cuda or cuda:N"),
        ({"partition": "split"}, "--partition is 'split'; it must be one of shuffle, random"),
        ({"weight": 0.0}, "--weight is 0.0; it must be above 0"),
        ({"weight": float("inf"), "partition": "random"}, "--weight is inf; it must be finite"),
        ({"accumulate": 0}, "--accumulate is 0; it must be 1 or more"),
        ({"local_steps": 0}, "--local-steps is 0; it must be 1 or more"),
        ({"local_lr": 0.0}, "--local-lr is 0.0; it must be above 0"),
        ({"start_together": 0}, f"--start-together is 0; it must be 1 to {limits.MAX_RANKS}"),
        ({"evaluate_every": -1}, "--evaluate-every is -1; it must be 0 or more"),
        ({"slow_seconds": -1.0}, "--slow is -1.0; it must be 0 or more"),
        ({"slow_turns": 0}, "--slow-turns is 0; it must be 1 or more"),
        ({"slow_tail": 0.0}, "--slow-tail is 0.0; it must be above 0"),
        ({"slow_tail": 1.5}, "--slow-tail draws pauses of --slow SECONDS or longer; give --slow too"),
        ({"pace_seconds": float("inf")}, "--pace is inf; it must be finite and at most 31536000"),
        ({"pace_seconds": float("nan")}, "--pace is nan; it must be 0 or more"),
        ({"slow_seconds": 1e308}, "--slow is 1e+308; it must be at most 31536000"),
        ({"slow_tail": float("inf"), "slow_seconds": 1.0}, "--slow-tail is inf; it must be finite"),
        ({"steps": 2**53}, "--steps is 9007199254740992; it must be at most 9007199254740991"),
        ({"seed": 2**53}, "--seed is 9007199254740992; it must be at most 9007199254740991"),
        (
            {"server": "http://a b"},
            "--server: the server's address 'http://a b' has a space or a character that is not seen in it",
        ),
        ({"metrics_host": "a..b"}, "--metrics-host is 'a..b'; it must be a host's name or address, such as 127.0.0.1"),
        ({"metrics_port": 65536}, "--metrics-port is 65536; it must be 0 to 65535"),
        ({"log_level": "loud"}, "--log-level is 'loud'; it must be one of debug, info, warning, error"),
        ({"log_format": "xml"}, "--log-format is 'xml'; it must be one of auto, json, console"),
        ({"weight": 2.0}, "--weight sizes the data of --partition random; --partition shuffle deals evenly"),
        (
            {"files": "part-*", "partition": "random"},
            "--files deals files out, and --partition random draws from all samples; choose one",
        ),
        ({"stages": 0}, "--stages is 0; it must be 1 or more"),
        ({"stages": 2}, "--stages is 2; give --stage too: which of them this process is, from 0"),
        ({"stages": 2, "stage": 2}, "--stage is 2; there are 2, from 0 to 1"),
        ({"stages": 2, "stage": -1}, "--stage is -1; there are 2, from 0 to 1"),
        ({"stage": 0}, "--stage is about one of several stages of a model; give --stages too"),
        ({"recompute": True}, "--recompute is about one of several stages of a model; give --stages too"),
        ({"wire_dtype": "bfloat16"}, "--wire-dtype is about one of several stages of a model; give --stages too"),
        ({"cut": "even"}, "--cut is 'even'; it must be time, memory or the layers of each stage, such as 2,3"),
        ({"schedule": "2f2b"}, "--schedule is '2f2b'; it must be one of gpipe, 1f1b, zb-h1"),
        ({"stage_port": 70000}, "--stage-port is 70000; it must be 0 to 65535"),
        ({"stage_host": "a b"}, "--stage-host is 'a b'; it must be a host's name or address, such as 127.0.0.1"),
        (
            {"stages": 1, "stage": 0, "batch_size": 4},
            "--batch-size is 4, which cannot be cut into --micro-batches 8; give fewer micro-batches or larger batches",
        ),
        (
            {"stages": 2, "stage": 0, "cut": "2,3,1"},
            "the cut 2,3,1 is for 3 stages, and there are 2; give a number for each",
        ),
        (
            {"stages": 2, "stage": 0, "advertise": "a:b"},
            "the address to advertise is 'a:b'; it must be HOST or HOST:PORT, IPv6 as [HOST]",
        ),
        (
            {"stages": 2, "stage": 0, "accumulate": 2},
            "--accumulate has no place with --stages: micro-batches make one push; give more of them",
        ),
        (
            {"stages": 2, "stage": 0, "local_steps": 2},
            "--local-steps has no place with --stages: no stage can step before all have computed",
        ),
        (
            {"stages": 2, "stage": 0, "files": "part-*"},
            "--files has no place with --stages: the first and the last stage read the same samples",
        ),
        (
            {"accumulate": 2, "local_steps": 2},
            "--accumulate and --local-steps are two ways to push less often; choose one",
        ),
    ],
)
def test_a_bad_setting_is_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingError) as refused:
        config(**settings)
    assert str(refused.value) == sentence


class TestBeingSlowOnPurpose:
    def test_nobody_is_slow_unless_told(self) -> None:
        assert config().sleep_seconds(clock=0, index=0, count=1) == 0

    def test_every_iteration_is_slow(self) -> None:
        slow = config(slow_seconds=0.2)
        assert {slow.sleep_seconds(clock, 1, 4) for clock in range(10)} == {0.2}

    def test_the_straggler_moves_to_the_next_worker(self) -> None:
        slow = config(slow_seconds=0.2, slow_turns=2)
        asleep = [[index for index in range(3) if slow.sleep_seconds(clock, index, 3)] for clock in range(8)]
        assert asleep == [[0], [0], [1], [1], [2], [2], [0], [0]]

    def test_the_pace_is_everybodys_and_the_straggler_comes_on_top(self) -> None:
        slow = config(pace_seconds=0.25, slow_seconds=0.5, slow_turns=1)
        assert [slow.sleep_seconds(clock, 1, 2) for clock in range(4)] == [0.25, 0.75, 0.25, 0.75]

    def test_the_tail_is_the_same_in_every_run_and_another_for_each_worker_and_seed(self) -> None:
        def pauses(**settings: object) -> list[float]:
            slow = config(slow_seconds=0.01, slow_tail=1.5, **settings)
            return [slow.sleep_seconds(clock, 0, 4) for clock in range(50)]

        assert pauses() == pauses()
        assert pauses() != pauses(seed=1)
        assert pauses() != pauses(rank="w1")

    def test_the_tail_is_paretos_up_to_its_end(self) -> None:
        slow = config(slow_seconds=1.0, slow_tail=1.5)
        pauses = [slow.sleep_seconds(clock, 0, 4) for clock in range(10_000)]
        assert min(pauses) >= 1.0
        assert max(pauses) <= LONGEST_TAIL + 1e-9
        for length in (2.0, 5.0, 20.0):
            share = sum(pause > length for pause in pauses) / len(pauses)
            assert share == pytest.approx(length**-1.5, abs=0.01)

    def test_the_flattest_tail_has_an_end_too(self) -> None:
        slow = config(slow_seconds=1.0, slow_tail=1e-6)
        assert slow.sleep_seconds(0, 0, 1) == pytest.approx(LONGEST_TAIL)
