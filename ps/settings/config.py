"""What the server is told to do: every setting, its default, and what is wrong with a bad one.

The one rule: a `ServerConfig` that exists is valid. Whoever makes one (the command line, a test, a program)
gets a `ValueError` in one sentence that names the flag, the value and the limit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from leeway.protocol import limits, parts
from leeway.protocol.addresses import is_host, is_loopback
from leeway.protocol.fields import MAX_INTEGER, bound, shown
from leeway.protocol.policy_terms import MODES, PolicyTerms
from leeway.protocol.ranks import DEFAULT_GROUP, NAME_WORDS, is_rank
from leeway.ps.arithmetic.aggregation.registry import rule
from leeway.ps.arithmetic.schedules import Schedule
from leeway.ps.arithmetic.settings import BadSetting, OptimizerKind, OptimizerSettings
from leeway.ps.settings.patterns import takes_all_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from leeway.ps.core.endings import Goal, Plateau


OPTIMIZERS = tuple(map(str, OptimizerKind))
LR_SCHEDULES = tuple(map(str, Schedule))
NON_FINITE = ("refuse", "warn", "off")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")

_DEFAULTS = OptimizerSettings()

# Whoever gives one of these has chosen an optimizer.
OF_OPTIMIZERS = (
    *("optimizer", "lr", "momentum", "beta1", "beta2", "alpha", "rho", "centered", "eps"),
    *("lr_schedule", "schedule_steps", "lr_gamma", "min_lr", "warmup_steps"),
    *("clip_norm", "weight_decay", "decay_vectors"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """What may differ from group to group: the policy, and how an update becomes a step.

    `aggregation` is a rule as users write it, `krum:1`: what makes one update of a round's (`aggregation.registry`).
    `staleness` is used by `ssp` alone and counts iterations. `quorum`: how many pushes a round of `sync` closes with,
    None for all; `grace_seconds` after the last of them, None for what the pace of the pushes advises.
    `warmup_steps` and `schedule_steps` count versions.
    `delta_scale` None: 1 / workers where updates take effect on arrival, 1 where they are aggregated.
    `until` counts iterations; in a table it is that group's, and 0 there: it has none, and goes on while others do.
    An update of a norm over `max_update_norm`, or over `max_update_norm_ratio` times the median of late, is refused.
    `decay_vectors`: weight decay for biases and norms (tensors of at most one dimension) too.
    `optimizer_chosen`: somebody has; else the first update says whether it is to step, or what steps have been made.
    """

    mode: str = "sync"
    staleness: int = 3
    quorum: int | None = None
    until: int | None = None
    grace_seconds: float | None = None
    aggregation: str = "mean"
    optimizer: str = str(_DEFAULTS.kind)
    lr: float = _DEFAULTS.lr
    momentum: float | None = _DEFAULTS.momentum
    beta1: float = _DEFAULTS.betas[0]
    beta2: float = _DEFAULTS.betas[1]
    alpha: float = _DEFAULTS.alpha
    rho: float = _DEFAULTS.rho
    centered: bool = _DEFAULTS.centered
    eps: float | None = _DEFAULTS.eps
    lr_schedule: str = str(_DEFAULTS.lr_schedule)
    schedule_steps: int | None = _DEFAULTS.schedule_steps
    lr_gamma: float = _DEFAULTS.gamma
    min_lr: float = _DEFAULTS.min_lr
    warmup_steps: int = _DEFAULTS.warmup_steps
    clip_norm: float | None = _DEFAULTS.clip_norm
    weight_decay: float = _DEFAULTS.weight_decay
    decay_vectors: bool = _DEFAULTS.decay_vectors
    delta_scale: float | None = _DEFAULTS.delta_scale
    max_update_norm: float | None = None
    max_update_norm_ratio: float | None = None
    optimizer_chosen: bool = True

    def __post_init__(self) -> None:
        _one_of("--mode", self.mode, MODES)
        _within("--staleness", self.staleness, 0, limits.MAX_STALENESS)
        if self.quorum is not None:
            _within("--quorum", self.quorum, 1, limits.MAX_RANKS)
        _number("--until", self.until, 0)
        if self.grace_seconds is not None:
            within = 0 <= self.grace_seconds <= limits.MAX_GRACE_SECONDS
            _require("--grace", self.grace_seconds, within, f"0 to {limits.MAX_GRACE_SECONDS:g} seconds, or auto")
        try:
            rule(self.aggregation)
        except ValueError as error:
            raise ValueError(f"--aggregation: {error}") from None
        _number("--max-update-norm", self.max_update_norm, limits.MIN_UPDATE_NORM)
        _number("--max-update-norm-ratio", self.max_update_norm_ratio, 1.0)
        _one_of("--lr-schedule", self.lr_schedule, LR_SCHEDULES)
        self._optimizer_settings(self.lr_schedule if self.schedule_steps is not None else "constant")

    def optimizer_settings(self) -> OptimizerSettings:
        """What the arithmetic needs of these. Raises `ValueError` where a schedule has no length."""
        if self.lr_schedule != "constant" and self.schedule_steps is None:
            raise ValueError(
                f"--lr-schedule {self.lr_schedule} needs --schedule-steps, the number of versions"
                + (" between two drops" if self.lr_schedule == "step" else " it takes")
                + ("" if self.lr_schedule == "step" or self.until == 0 else " (or --until)")
            )
        return self._optimizer_settings(self.lr_schedule)

    def _optimizer_settings(self, schedule: str) -> OptimizerSettings:
        is_step = schedule == "step"
        try:
            return OptimizerSettings.read(
                {
                    "kind": self.optimizer,
                    "lr": self.lr,
                    "momentum": self.momentum,
                    "betas": [self.beta1, self.beta2],
                    "alpha": self.alpha,
                    "rho": self.rho,
                    "centered": self.centered,
                    "eps": self.eps,
                    "weight_decay": self.weight_decay,
                    "decay_vectors": self.decay_vectors,
                    "clip_norm": self.clip_norm,
                    "lr_schedule": schedule,
                    "warmup_steps": self.warmup_steps,
                    "schedule_steps": None if is_step else self.schedule_steps,
                    "step_every": self.schedule_steps if is_step else None,
                    "gamma": self.lr_gamma,
                    "min_lr": self.min_lr,
                    "delta_scale": self.delta_scale,
                }
            )
        except BadSetting as error:
            raise ValueError(f"{_flag(error.field)} {error.problem}") from None

    @property
    def terms(self) -> PolicyTerms:
        """The policy's; without what its mode does not ask for."""
        if self.mode == "ssp":
            return PolicyTerms("ssp", self.staleness)
        if self.mode == "sync" and self.quorum is not None:
            return PolicyTerms("sync", quorum=self.quorum, grace_seconds=self.grace_seconds)
        return PolicyTerms(self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig(GroupSettings):
    """A group: its name, the patterns (as of `fnmatch`, case matters) of the keys it holds, its settings."""

    name: str
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        if not is_rank(self.name):
            raise ValueError(f"group name {self.name!r} must be {NAME_WORDS}")
        if not self.keys:
            raise ValueError(f"[group.{self.name}] needs keys, a list of patterns such as ['embedding.*']")
        try:
            GroupSettings.__post_init__(self)
        except ValueError as error:
            raise ValueError(f"{error}" if self.name == DEFAULT_GROUP else f"[group.{self.name}]: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(GroupSettings):
    """All settings of `ps-serve`; the inherited ones are those of the default group.

    `port` 0 takes a free one. `until` counts iterations, `checkpoint_every` versions. A path or number that is
    None turns its feature off. The run is over at whichever of its ends comes first. `without_effect`: settings that
    were given and change nothing, and why: told at the start.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    insecure: bool = False
    max_body_bytes: int = limits.DEFAULT_MAX_BODY_BYTES
    workers: int = 1
    lease_seconds: float = 10.0
    max_iteration_seconds: float | None = None
    until_seconds: float | None = None
    until_metric: Goal | None = None
    until_flat: Plateau | None = None
    init: Path | None = None
    non_finite: str = "refuse"
    quarantine_after: int = 3
    max_requests_per_second: float | None = None
    max_bytes_per_second: int | None = None
    state_dir: Path | None = None
    checkpoint_every: int | None = None
    checkpoint_keep: int = 3
    resume: bool = False
    history: Path | None = None
    log_level: str = "info"
    log_format: str = "auto"
    named_groups: tuple[GroupConfig, ...] = ()
    without_effect: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        GroupSettings.__post_init__(self)
        if not self.host:
            raise ValueError("--host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for all")
        _require("--host", self.host, is_host(self.host), "a host's name or address, such as 127.0.0.1")
        _within("--port", self.port, 0, 65535)
        self._check_who_gets_in()
        _number("--max-body", self.max_body_bytes, 1024)
        _within("--workers", self.workers, 1, limits.MAX_RANKS)
        _number("--until", self.until, 1)
        _number("--lease", self.lease_seconds, limits.MIN_LEASE_SECONDS, limits.MAX_LEASE_SECONDS)
        least, most = limits.MIN_ITERATION_LIMIT_SECONDS, limits.MAX_ITERATION_LIMIT_SECONDS
        _number("--max-iteration-seconds", self.max_iteration_seconds, least, most)
        _number("--until-seconds", self.until_seconds, least, most)
        _one_of("--non-finite", self.non_finite, NON_FINITE)
        _within("--quarantine-after", self.quarantine_after, 1, limits.MAX_QUARANTINE_AFTER)
        _number("--max-requests-per-second", self.max_requests_per_second, 1)
        _number("--max-bytes-per-second", self.max_bytes_per_second, 1024)
        _number("--checkpoint-every", self.checkpoint_every, 1)
        _number("--checkpoint-keep", self.checkpoint_keep, 1)
        _one_of("--log-level", self.log_level, LOG_LEVELS)
        _one_of("--log-format", self.log_format, LOG_FORMATS)
        if self.state_dir is None and self.checkpoint_every is not None:
            raise ValueError("--checkpoint-every needs --state-dir, the folder to save the checkpoints in")
        if self.state_dir is None and self.resume:
            raise ValueError("--resume needs --state-dir, the folder with the checkpoint to go on from")
        self._check_groups()

    def _check_who_gets_in(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            there, missing = ("--tls-cert", "--tls-key") if self.tls_cert else ("--tls-key", "--tls-cert")
            raise ValueError(f"{there} needs {missing}")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key: certificates are shown over TLS")
        if not (self.is_loopback or self.tokens or self.tls_client_ca or self.insecure):
            raise ValueError(
                f"with --host {self.host} whoever reaches the port would own the model: give --tokens, or"
                " --tls-client-ca (ps-keys makes both), or say --insecure"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether nobody beyond this machine reaches it."""
        return is_loopback(self.host)

    @property
    def lets_anybody_in(self) -> bool:
        return self.tokens is None and self.tls_client_ca is None

    @property
    def is_insecure(self) -> bool:
        """Whether anybody gets in who is not on this machine."""
        return self.lets_anybody_in and not self.is_loopback

    def _check_groups(self) -> None:
        names = [group.name for group in self.named_groups]
        if DEFAULT_GROUP in names:
            raise ValueError(
                f"[group.{DEFAULT_GROUP}] is not for a table: the settings outside the tables are its settings"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"two groups have the same name; the names are {', '.join(names)}")
        if len(names) >= limits.MAX_GROUPS:
            raise ValueError(f"there are {len(names)} group tables; at most {limits.MAX_GROUPS - 1} can be")
        for index, group in enumerate(self.named_groups):
            takers = [_taker(pattern, self.named_groups[:index]) for pattern in group.keys]
            if None not in takers:
                whose = ", ".join(dict.fromkeys(f"[group.{name}]" for name in takers))
                raise ValueError(
                    f"[group.{group.name}] can never hold a key: {whose} above it takes all that fit its patterns; "
                    "put the table with the narrower patterns first"
                )
        for group in self.groups:
            _check_rule(group, self.workers)
            try:
                group.optimizer_settings()
            except ValueError as error:
                raise ValueError(f"{error}{_where(group)}") from None

    @property
    def groups(self) -> tuple[GroupConfig, ...]:
        """Every group in the order in which keys are offered to them; the default one, which holds the rest, last.

        A cosine or a line without a length of its own ends with the run: at `until` versions, `until` x `workers`
        where each update makes one.
        """
        shared = {field.name: getattr(self, field.name) for field in fields(GroupSettings)}
        default = GroupConfig(name=DEFAULT_GROUP, keys=("*",), **shared)
        return tuple(self._with_schedule(group) for group in (*self.named_groups, default))

    def with_groups(self, tables: Mapping[str, Mapping[str, Any]]) -> ServerConfig:
        """These settings, and named groups that differ from the default one as each table says.

        A table has any of the settings of `GroupSettings`, and `keys`, a list of patterns; without it they are those of
        the part of that name, `NAME/*`.
        """
        shared = {field.name: getattr(self, field.name) for field in fields(GroupSettings)}
        groups = []
        for name, table in tables.items():
            own = dict(table)
            keys = tuple(own.pop("keys", (parts.pattern(name),)))
            if not own.keys().isdisjoint(OF_OPTIMIZERS):
                own["optimizer_chosen"] = True
            groups.append(GroupConfig(name=name, keys=keys, **(shared | own)))
        return replace(self, named_groups=tuple(groups))

    def _with_schedule(self, group: GroupConfig) -> GroupConfig:
        if group.lr_schedule in ("constant", "step") or group.schedule_steps is not None or not group.until:
            return group
        versions = group.until if group.mode == "sync" else group.until * self.workers
        return replace(group, schedule_steps=versions)


def _taker(pattern: str, groups: Sequence[GroupConfig]) -> str | None:
    """The first of these groups that surely takes every key that fits the pattern."""
    return next((group.name for group in groups if any(takes_all_of(key, pattern) for key in group.keys)), None)


def _where(group: GroupConfig) -> str:
    return "" if group.name == DEFAULT_GROUP else f", in [group.{group.name}]"


def _check_rule(group: GroupConfig, workers: int) -> None:
    """Raise `ValueError` where the group's aggregation rule would never make a step, or never do anything."""
    chosen = rule(group.aggregation)
    where = _where(group)
    if chosen.needs_rounds and group.mode != "sync":
        raise ValueError(
            f"--aggregation {chosen} and --mode {group.mode} exclude each other{where}: under {group.mode} each update "
            "is a step of its own, and nothing is aggregated; choose --mode sync, or --aggregation mean"
        )
    if chosen.least > workers:
        raise ValueError(
            f"--aggregation {chosen} needs {chosen.least} updates in a round, and --workers is {workers}{where}; "
            "raise --workers, or choose a rule that needs fewer"
        )
    quorum = group.terms.quorum
    if quorum is not None and chosen.least > quorum:
        raise ValueError(
            f"--aggregation {chosen} needs {chosen.least} updates in a round, and --quorum lets it close with "
            f"{quorum}{where}; raise --quorum, or choose a rule that needs fewer"
        )


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b?", re.ASCII | re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read a number of bytes: `1048576`, `512MiB`, `1.5 GB`. i for powers of 1024, else of 1000.

    Raises `ValueError` when it is not of that form, or more than a message can say.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a number of bytes, such as 1048576, 512MiB or 4GB")
    number, unit, binary = match.groups()
    power = "kmgt".index(unit.lower()) + 1 if unit else 0
    factor: int = (1024 if binary else 1000) ** power
    size = float(number) * factor
    if size > MAX_INTEGER:
        raise ValueError(f"{text[:40]!r} is more than {MAX_INTEGER} bytes")
    return math.floor(size)


def _flag(field: str) -> str:
    """The option that sets a field of `OptimizerSettings`."""
    own = {
        "kind": "--optimizer",
        "betas[0]": "--beta1",
        "betas[1]": "--beta2",
        "warmup_steps": "--warmup",
        "step_every": "--schedule-steps",
        "gamma": "--lr-gamma",
    }
    return own.get(field) or f"--{field.replace('_', '-')}"


def _require(flag: str, value: object, met: bool, must_be: str) -> None:
    if not met:
        raise ValueError(f"{flag} is {shown(value)}; it must be {must_be}")


def _one_of(flag: str, value: str, known: Sequence[str]) -> None:
    _require(flag, value, value in known, f"one of {', '.join(known)}")


def _within(flag: str, value: int, least: int, most: int) -> None:
    _require(flag, value, least <= value <= most, f"{least} to {most}")


def _number(flag: str, value: float | None, least: float, most: float = MAX_INTEGER) -> None:
    if value is not None:
        _require(flag, value, least <= value <= most, bound(value, least, most))
