"""What a worker is told to do: every setting, its default, and what is wrong with a bad one.

The one rule: a `WorkerConfig` that exists is valid. Whoever makes one gets a `SettingError` in one sentence that
names the flag, the value and the limit.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from leeway.errors import SettingError
from leeway.protocol import limits
from leeway.protocol.addresses import is_host, server_url
from leeway.protocol.fields import MAX_INTEGER, bound, shown
from leeway.protocol.handovers import ROUNDED
from leeway.protocol.ranks import NAME_WORDS, is_rank
from leeway.worker.pipeline.addresses import advertised
from leeway.worker.pipeline.cut import BALANCED, check
from leeway.worker.pipeline.schedules import SCHEDULES

PARTITIONS = ("shuffle", "random")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")
WIRE_DTYPES = (ROUNDED,)

# What says nothing without `stages`.
OF_A_STAGE = ("stage", "micro_batches", "cut", "schedule", "recompute", "wire_dtype", "stage_host", "stage_port",
              "advertise")  # fmt: skip

# A pause of --slow-tail is at most so many times --slow: the distribution itself has no end.
LONGEST_TAIL = 100.0

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?", re.ASCII)
_CUT = re.compile(rf"{'|'.join(BALANCED)}|\d{{1,9}}(,\d{{1,9}})*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """All settings of `ps-worker`. Raises `SettingError` when they make no sense.

    `steps` is the clock to reach, None for as long as the server goes on. `local_steps` above 1 pushes the delta
    of so many SGD steps with `local_lr`; else a push is one gradient, over `accumulate` batches. `weight` sizes
    the data of `partition` "random". `files`: a pattern of training files below `data_dir`, of which a worker reads its
    share alone. `start_together`: workers that must be there before the first step.
    `evaluate_every` 0 evaluates at the end alone.
    `stages`: this process trains layers of the model alone, as number `stage` of so many, and what is said from
    `micro_batches` to `advertise` holds (see `TrainingSession.pipeline`); None: it trains the whole model.
    `metrics_port` 0 takes a free one, None serves no metrics; `metrics_insecure`: to anybody, at whichever host.
    `token_file`, `ca`, `cert`, `key`: see `leeway.connect`. `sleep_seconds` says what `pace_seconds`, `slow_seconds`,
    `slow_turns` and `slow_tail` do.
    """

    task: str
    server: str
    rank: str
    steps: int | None = None
    batch_size: int = 64
    seed: int = 0
    data_dir: Path = Path("data")
    files: str | None = None
    model: str | None = None
    device: str = "auto"
    partition: str = "shuffle"
    weight: float = 1.0
    accumulate: int = 1
    local_steps: int = 1
    local_lr: float = 0.1
    start_together: int = 1
    stages: int | None = None
    stage: int | None = None
    micro_batches: int = 8
    cut: str = "time"
    schedule: str = "1f1b"
    recompute: bool = False
    wire_dtype: Literal["bfloat16"] | None = None
    stage_host: str | None = None
    stage_port: int = 0
    advertise: str | None = None
    evaluate_every: int = 0
    pace_seconds: float = 0.0
    slow_seconds: float = 0.0
    slow_turns: int | None = None
    slow_tail: float | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    metrics_insecure: bool = False
    token_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    log_level: str = "info"
    log_format: str = "auto"

    def __post_init__(self) -> None:
        ports = self.metrics_port is None or 0 <= self.metrics_port <= 65535
        host = "a host's name or address, such as 127.0.0.1"
        for flag, value, met, must_be in (
            ("TASK", self.task, bool(self.task), "the name of a task"),
            ("--rank", self.rank, is_rank(self.rank), NAME_WORDS),
            ("--device", self.device, bool(_DEVICE.fullmatch(self.device)), "auto, cpu, cuda or cuda:N"),
            ("--partition", self.partition, self.partition in PARTITIONS, f"one of {', '.join(PARTITIONS)}"),
            (
                "--start-together",
                self.start_together,
                1 <= self.start_together <= limits.MAX_RANKS,
                f"1 to {limits.MAX_RANKS}",
            ),
            (
                "--cut",
                self.cut,
                bool(_CUT.fullmatch(self.cut)),
                "time, memory or the layers of each stage, such as 2,3",
            ),
            ("--schedule", self.schedule, self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("--wire-dtype", self.wire_dtype, self.wire_dtype in (None, *WIRE_DTYPES), " or ".join(WIRE_DTYPES)),
            ("--stage-host", self.stage_host, self.stage_host is None or is_host(self.stage_host), host),
            ("--stage-port", self.stage_port, 0 <= self.stage_port <= 65535, "0 to 65535"),
            ("--metrics-host", self.metrics_host, is_host(self.metrics_host), host),
            ("--metrics-port", self.metrics_port, ports, "0 to 65535"),
            ("--log-level", self.log_level, self.log_level in LOG_LEVELS, f"one of {', '.join(LOG_LEVELS)}"),
            ("--log-format", self.log_format, self.log_format in LOG_FORMATS, f"one of {', '.join(LOG_FORMATS)}"),
        ):
            if not met:
                raise SettingError(f"{flag} is {shown(value)}; it must be {must_be}")
        for flag, number, least, most in (
            ("--steps", self.steps, 1, MAX_INTEGER),
            ("--batch-size", self.batch_size, 1, MAX_INTEGER),
            ("--seed", self.seed, 0, MAX_INTEGER),
            ("--accumulate", self.accumulate, 1, MAX_INTEGER),
            ("--local-steps", self.local_steps, 1, MAX_INTEGER),
            ("--stages", self.stages, 1, limits.MAX_STAGES),
            ("--micro-batches", self.micro_batches, 1, limits.MAX_PARTS),
            ("--evaluate-every", self.evaluate_every, 0, MAX_INTEGER),
            ("--pace", self.pace_seconds, 0, limits.MAX_STEP_SECONDS),
            ("--slow", self.slow_seconds, 0, limits.MAX_STEP_SECONDS),
            ("--slow-turns", self.slow_turns, 1, MAX_INTEGER),
        ):
            if number is not None and not least <= number <= most:
                raise SettingError(f"{flag} is {shown(number)}; it must be {bound(number, least, most)}")
        for flag, factor in (
            ("--weight", self.weight),
            ("--local-lr", self.local_lr),
            ("--slow-tail", self.slow_tail),
        ):
            if factor is not None and not 0 < factor < math.inf:
                must_be = "finite" if factor == math.inf else "above 0"
                raise SettingError(f"{flag} is {factor}; it must be {must_be}")
        try:
            server_url(self.server)
        except ValueError as error:
            raise SettingError(f"--server: {error}") from None
        if self.weight != 1 and self.partition != "random":
            raise SettingError("--weight sizes the data of --partition random; --partition shuffle deals evenly")
        if self.files is not None and self.partition != "shuffle":
            raise SettingError("--files deals files out, and --partition random draws from all samples; choose one")
        if self.accumulate > 1 and self.local_steps > 1:
            raise SettingError("--accumulate and --local-steps are two ways to push less often; choose one")
        if self.slow_tail is not None and not self.slow_seconds:
            raise SettingError("--slow-tail draws pauses of --slow SECONDS or longer; give --slow too")
        if self.stages is None:
            self._check_that_it_is_whole()
        else:
            self._check_stage(self.stages)

    def _check_that_it_is_whole(self) -> None:
        for field in fields(self):
            if field.name in OF_A_STAGE and getattr(self, field.name) != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                raise SettingError(f"{flag} is about one of several stages of a model; give --stages too")

    def _check_stage(self, stages: int) -> None:
        if self.stage is None:
            raise SettingError(f"--stages is {stages}; give --stage too: which of them this process is, from 0")
        if not 0 <= self.stage < stages:
            raise SettingError(f"--stage is {shown(self.stage)}; there are {stages}, from 0 to {stages - 1}")
        if self.micro_batches > self.batch_size:
            raise SettingError(
                f"--batch-size is {self.batch_size}, which cannot be cut into --micro-batches {self.micro_batches};"
                " give fewer micro-batches or larger batches"
            )
        if self.accumulate > 1:
            raise SettingError(
                "--accumulate has no place with --stages: micro-batches make one push; give more of them"
            )
        if self.local_steps > 1:
            raise SettingError("--local-steps has no place with --stages: no stage can step before all have computed")
        if self.files is not None:
            raise SettingError("--files has no place with --stages: the first and the last stage read the same samples")
        try:
            if self.cut not in BALANCED:
                sizes = tuple(map(int, self.cut.split(",")))
                check(sizes, sum(sizes), stages)
            if self.advertise is not None:
                advertised("http://127.0.0.1:1", "127.0.0.1", self.advertise)
        except ValueError as error:
            raise SettingError(str(error)) from None

    def sleep_seconds(self, clock: int, index: int, count: int) -> float:
        """How long to sleep in iteration `clock`, as worker `index` of `count`: a straggler for demonstrations.

        `pace_seconds` in every iteration. On top of it `slow_seconds`: with `slow_turns` the workers take turns of so
        many iterations, else all iterations are slow. With `slow_tail` a pause is drawn from a Pareto distribution of
        that shape, of which `slow_seconds` is the least value; seed, rank and clock decide it.
        """
        if self.slow_turns is not None and (clock // self.slow_turns) % count != index:
            return self.pace_seconds
        return self.pace_seconds + self.slow_seconds * self._tail(clock)

    def _tail(self, clock: int) -> float:
        """A draw from P(X > x) = x ^ -slow_tail for x of 1 or more, at most `LONGEST_TAIL`; 1 without a tail."""
        if self.slow_tail is None:
            return 1.0
        digest = hashlib.sha256(f"{self.seed} {self.rank} {clock}".encode()).digest()
        uniform = (int.from_bytes(digest[:8], "big") + 1) / 2**64  # in (0, 1]
        # In logarithms: the power itself overflows for small shapes.
        return math.exp(min(math.log(LONGEST_TAIL), -math.log(uniform) / self.slow_tail))
