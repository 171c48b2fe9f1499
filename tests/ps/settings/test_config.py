"""Settings of the server: defaults, groups, and one helpful sentence for each that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from leeway.protocol import limits
from leeway.protocol.policy_terms import MODES
from leeway.protocol.ranks import NAME_WORDS
from leeway.ps.settings.config import OPTIMIZERS, GroupConfig, ServerConfig, parse_bytes

STATE = Path("state")


def test_the_defaults_are_valid_and_describe_one_group() -> None:
    config = ServerConfig()
    assert [group.name for group in config.groups] == ["default"]
    assert config.groups[0].keys == ("*",)
    assert config.max_body_bytes == limits.DEFAULT_MAX_BODY_BYTES


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("written", ["mean", "sum"])
def test_mean_and_sum_go_with_every_policy(mode: str, written: str) -> None:
    assert ServerConfig(mode=mode, aggregation=written).groups[0].aggregation == written


def test_a_group_has_a_rule_of_its_own() -> None:
    tables = {"embedding": {"keys": ["emb.*"], "aggregation": "median"}, "head": {"keys": ["head.*"]}}
    config = ServerConfig(workers=5, aggregation="krum:1").with_groups(tables)
    assert [group.aggregation for group in config.groups] == ["median", "krum:1", "krum:1"]
    with pytest.raises(ValueError, match=r"^--aggregation krum:2 needs 7 .* --workers is 5, in \[group.embedding\];"):
        ServerConfig(workers=5).with_groups({"embedding": {"keys": ["emb.*"], "aggregation": "krum:2"}})
    with pytest.raises(ValueError, match=r"^\[group.embedding\]: --aggregation: .* must have the form krum:F"):
        ServerConfig(workers=5).with_groups({"embedding": {"keys": ["emb.*"], "aggregation": "krum:x"}})
    with pytest.raises(ValueError, match=r"^--aggregation krum:1 and --mode async exclude each other, in \[group.a\]"):
        ServerConfig(workers=5, aggregation="krum:1").with_groups({"a": {"keys": ["a"], "mode": "async"}})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "bsp"}, "--mode is 'bsp'; it must be one of sync, async, ssp"),
        ({"max_update_norm": 0.0}, "--max-update-norm is 0.0; it must be 1e-30 or more"),
        ({"max_update_norm": float("nan")}, "--max-update-norm is nan; it must be 1e-30 or more"),
        ({"max_update_norm_ratio": 0.5}, "--max-update-norm-ratio is 0.5; it must be 1.0 or more"),
        ({"quarantine_after": 0}, "--quarantine-after is 0; it must be 1 to 1000000"),
        ({"max_requests_per_second": 0.5}, "--max-requests-per-second is 0.5; it must be 1 or more"),
        ({"max_bytes_per_second": 100}, "--max-bytes-per-second is 100; it must be 1024 or more"),
        ({"staleness": -1}, f"--staleness is -1; it must be 0 to {limits.MAX_STALENESS}"),
        (
            {"aggregation": "krumm:1"},
            "--aggregation: there is no aggregation rule 'krumm:1'; choose one of mean, sum, median, trimmed-mean:B, "
            "krum:F, multi-krum:F,M, geometric-median",
        ),
        (
            {"aggregation": "trimmed-mean"},
            "--aggregation: the aggregation rule 'trimmed-mean' must have the form trimmed-mean:B, such as "
            "trimmed-mean:1",
        ),
        (
            {"aggregation": "krum:2", "workers": 4},
            "--aggregation krum:2 needs 7 updates in a round, and --workers is 4; raise --workers, or choose a rule "
            "that needs fewer",
        ),
        (
            {"aggregation": "multi-krum:1,4", "workers": 6},
            "--aggregation multi-krum:1,4 needs 7 updates in a round, and --workers is 6; raise --workers, or choose a "
            "rule that needs fewer",
        ),
        (
            {"aggregation": "median", "mode": "ssp", "workers": 4},
            "--aggregation median and --mode ssp exclude each other: under ssp each update is a step of its own, and "
            "nothing is aggregated; choose --mode sync, or --aggregation mean",
        ),
        ({"optimizer": "lion"}, "--optimizer is 'lion'; it must be one of " + ", ".join(OPTIMIZERS)),
        ({"lr": -0.1}, "--lr is -0.1; it must be a number at least 0 and at most 1e+06"),
        ({"lr": float("nan")}, "--lr is nan; it must be a number at least 0 and at most 1e+06"),
        ({"lr": float("inf")}, "--lr is inf; it must be a number at least 0 and at most 1e+06"),
        ({"momentum": 1.0}, "--momentum is 1.0; it must be a number at least 0 and below 1"),
        ({"beta1": -0.1}, "--beta1 is -0.1; it must be a number at least 0 and below 1"),
        ({"beta2": 1.5}, "--beta2 is 1.5; it must be a number at least 0 and below 1"),
        ({"lr": 1e9}, "--lr is 1000000000.0; it must be a number at least 0 and at most 1e+06"),
        (
            {"optimizer": "momentum", "momentum": 0.0},
            "--momentum is 0; it must be above 0 and below 1, and momentum without it is sgd",
        ),
        ({"weight_decay": 2.0}, "--weight-decay is 2.0; it must be a number at least 0 and at most 1"),
        (
            {"lr_schedule": "cosine", "schedule_steps": 5, "warmup_steps": 5},
            "--schedule-steps is 5; the cosine schedule needs the number of steps after which the rate is at its "
            "lowest, more than the 5 of the warm-up",
        ),
        ({"alpha": 1.0}, "--alpha is 1.0; it must be a number at least 0 and below 1"),
        ({"rho": -1.0}, "--rho is -1.0; it must be a number at least 0 and below 1"),
        ({"lr_gamma": 0.0}, "--lr-gamma is 0.0; it must be a number above 0 and at most 1"),
        ({"min_lr": -1.0}, "--min-lr is -1.0; it must be a number at least 0 and at most 1e+06"),
        (
            {"lr_schedule": "linear", "until": 9, "min_lr": 0.5},
            "--min-lr is 0.5; a floor must be at most the rate, and lr is 0.1",
        ),
        ({"eps": 0.0}, "--eps is 0.0; it must be a number above 0 and at most 1"),
        ({"lr_schedule": "falling"}, "--lr-schedule is 'falling'; it must be one of constant, cosine, linear, step"),
        ({"schedule_steps": 0}, "--schedule-steps is 0; it must be an integer from 1 to 2^53 - 1"),
        ({"warmup_steps": -1}, "--warmup is -1; it must be an integer from 0 to 2^53 - 1"),
        ({"clip_norm": 0.0}, "--clip-norm is 0.0; it must be a number above 0 and finite"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0; it must be a number at least 0 and at most 1"),
        ({"delta_scale": 0.0}, "--delta-scale is 0.0; it must be a number above 0 and at most 1e+06"),
        ({"host": ""}, "--host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for all"),
        ({"port": 65536}, "--port is 65536; it must be 0 to 65535"),
        ({"max_body_bytes": 1}, "--max-body is 1; it must be 1024 or more"),
        ({"workers": 0}, f"--workers is 0; it must be 1 to {limits.MAX_RANKS}"),
        ({"until": 0}, "--until is 0; it must be 1 or more"),
        ({"lease_seconds": 0.0}, "--lease is 0.0; it must be 0.3 or more"),
        ({"lease_seconds": 1e-9}, "--lease is 1e-09; it must be 0.3 or more"),
        ({"lease_seconds": float("nan")}, "--lease is nan; it must be 0.3 or more"),
        ({"lease_seconds": float("inf")}, "--lease is inf; it must be finite and at most 86400"),
        ({"lease_seconds": 1e308}, "--lease is 1e+308; it must be at most 86400"),
        (
            {"max_iteration_seconds": float("inf")},
            "--max-iteration-seconds is inf; it must be finite and at most 31536000",
        ),
        ({"until": 2**53}, "--until is 9007199254740992; it must be at most 9007199254740991"),
        (
            {"state_dir": STATE, "checkpoint_every": 2**53},
            "--checkpoint-every is 9007199254740992; it must be at most 9007199254740991",
        ),
        ({"max_body_bytes": 2**53}, "--max-body is 9007199254740992; it must be at most 9007199254740991"),
        ({"host": "a..b"}, "--host is 'a..b'; it must be a host's name or address, such as 127.0.0.1"),
        ({"host": "a\0b"}, "--host is 'a\\x00b'; it must be a host's name or address, such as 127.0.0.1"),
        ({"host": "a" * 5000}, f"--host is '{'a' * 76}...; it must be a host's name or address, such as 127.0.0.1"),
        ({"until_seconds": 0.0}, "--until-seconds is 0.0; it must be 0.1 or more"),
        ({"until_seconds": float("nan")}, "--until-seconds is nan; it must be 0.1 or more"),
        ({"until_seconds": 1e9}, "--until-seconds is 1000000000.0; it must be at most 31536000"),
        ({"max_iteration_seconds": 0.01}, "--max-iteration-seconds is 0.01; it must be 0.1 or more"),
        ({"max_iteration_seconds": 0.0}, "--max-iteration-seconds is 0.0; it must be 0.1 or more"),
        ({"non_finite": "ignore"}, "--non-finite is 'ignore'; it must be one of refuse, warn, off"),
        ({"state_dir": STATE, "checkpoint_every": 0}, "--checkpoint-every is 0; it must be 1 or more"),
        ({"checkpoint_keep": 0}, "--checkpoint-keep is 0; it must be 1 or more"),
        ({"log_level": "loud"}, "--log-level is 'loud'; it must be one of debug, info, warning, error"),
        ({"log_format": "xml"}, "--log-format is 'xml'; it must be one of auto, json, console"),
        ({"checkpoint_every": 5}, "--checkpoint-every needs --state-dir, the folder to save the checkpoints in"),
        ({"resume": True}, "--resume needs --state-dir, the folder with the checkpoint to go on from"),
        (
            {"lr_schedule": "cosine"},
            "--lr-schedule cosine needs --schedule-steps, the number of versions it takes (or --until)",
        ),
        (
            {"lr_schedule": "linear"},
            "--lr-schedule linear needs --schedule-steps, the number of versions it takes (or --until)",
        ),
        (
            {"lr_schedule": "step", "until": 10},
            "--lr-schedule step needs --schedule-steps, the number of versions between two drops",
        ),
    ],
)
def test_a_bad_setting_is_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        ServerConfig(**settings)
    assert str(refused.value) == sentence


def test_a_state_dir_makes_checkpoints_and_resuming_possible() -> None:
    config = ServerConfig(state_dir=STATE, checkpoint_every=5, resume=True)
    assert config.checkpoint_every == 5


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(("mode", "versions"), [("sync", 100), ("async", 400), ("ssp", 400)])
def test_a_schedule_without_length_ends_with_the_run(mode: str, versions: int, schedule: str) -> None:
    config = ServerConfig(mode=mode, workers=4, until=100, lr_schedule=schedule)
    assert config.groups[0].schedule_steps == versions


def test_a_cosine_keeps_the_length_it_was_given() -> None:
    assert ServerConfig(until=100, lr_schedule="cosine", schedule_steps=7).groups[0].schedule_steps == 7


class TestNamedGroups:
    def test_a_group_differs_only_where_its_table_says_so(self) -> None:
        base = ServerConfig(mode="ssp", lr=0.5, weight_decay=0.1)
        embedding, default = base.with_groups({"embedding": {"keys": ["emb.*"], "lr": 0.01}}).groups
        assert (embedding.name, embedding.keys, embedding.lr) == ("embedding", ("emb.*",), 0.01)
        assert (embedding.mode, embedding.weight_decay) == ("ssp", 0.1)
        assert (default.name, default.lr) == ("default", 0.5)

    @pytest.mark.parametrize(
        ("tables", "sentence"),
        [
            ({"a b": {"keys": ["*"]}}, f"group name 'a b' must be {NAME_WORDS}"),
            ({"a": {"keys": []}}, r"[group.a] needs keys, a list of patterns such as ['embedding.*']"),
            (
                {"a": {"keys": ["*"], "lr": -1.0}},
                "[group.a]: --lr is -1.0; it must be a number at least 0 and at most 1e+06",
            ),
            (
                {"default": {"keys": ["*"]}},
                "[group.default] is not for a table: the settings outside the tables are its settings",
            ),
            (
                {"a": {"keys": ["*"], "lr_schedule": "cosine"}},
                "--lr-schedule cosine needs --schedule-steps, the number of versions it takes (or --until),"
                " in [group.a]",
            ),
            (
                {"a": {"keys": ["a.*"], "until": 0, "lr_schedule": "linear"}},
                "--lr-schedule linear needs --schedule-steps, the number of versions it takes, in [group.a]",
            ),
            (
                {f"g{number}": {"keys": ["*"]} for number in range(limits.MAX_GROUPS)},
                f"there are {limits.MAX_GROUPS} group tables; at most {limits.MAX_GROUPS - 1} can be",
            ),
        ],
    )
    def test_a_bad_table_is_one_sentence(self, tables: dict[str, dict[str, object]], sentence: str) -> None:
        with pytest.raises(ValueError, match=r".") as refused:
            ServerConfig().with_groups(tables)
        assert str(refused.value) == sentence

    def test_names_are_told_apart(self) -> None:
        group = GroupConfig(name="a", keys=("*",))
        with pytest.raises(ValueError, match="two groups have the same name; the names are a, a"):
            ServerConfig(named_groups=(group, group))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1_048_576),
        ("512MiB", 512 * 1024**2),
        ("512mib", 512 * 1024**2),
        ("4GB", 4 * 1000**3),
        ("1.5 KiB", 1536),
        ("10k", 10_000),
        ("2TiB", 2 * 1024**4),
        ("7B", 7),
    ],
)
def test_bytes_with_a_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e3", "5 apples", "1..5", "5iB", "٣"])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of bytes, such as 1048576, 512MiB or 4GB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["9" * 5000, f"{'9' * 5000}MiB", "8192TiB"])
def test_more_bytes_than_can_be_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"is more than 9007199254740991 bytes$"):
        parse_bytes(text)


def test_every_policy_of_the_semantics_is_there() -> None:
    assert MODES == ("sync", "async", "ssp")


def groups(*keys: tuple[str, ...]) -> ServerConfig:
    return ServerConfig(named_groups=tuple(GroupConfig(name=f"g{i}", keys=of) for i, of in enumerate(keys)))


@pytest.mark.parametrize(
    ("keys", "whose"),
    [
        ([("*",), ("*",)], "[group.g0]"),
        ([("**",), ("a", "b.*")], "[group.g0]"),
        ([("a.*",), ("a.b",)], "[group.g0]"),
        ([("a.*", "b"), ("b", "a.*.c")], "[group.g0]"),
        ([("a.*",), ("b.*",), ("a.b", "b.c", "b.d")], "[group.g0], [group.g1]"),
        ([("[ab]",), ("[ab]",)], "[group.g0]"),
    ],
)
def test_a_group_that_can_never_hold_a_key_is_refused(keys: list[tuple[str, ...]], whose: str) -> None:
    with pytest.raises(ValueError, match=r"can never hold a key") as refused:
        groups(*keys)
    assert str(refused.value).startswith(f"[group.g{len(keys) - 1}] can never hold a key: {whose} above it takes all")


@pytest.mark.parametrize(
    "keys",
    [
        [("a.b",), ("a.*",), ("*",)],
        [("a.*",), ("a.b", "c")],
        [("*.weight",), ("embedding.*",)],
        # Not sure, so not said.
        [("a?",), ("a*",)],
        [("x*bc]",), ("x[abc]",)],
    ],
)
def test_a_group_that_may_hold_one_is_taken(keys: list[tuple[str, ...]]) -> None:
    assert len(groups(*keys).groups) == len(keys) + 1
