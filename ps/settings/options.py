"""The options of `ps-serve`, in the order and under the headings in which `--help` shows them.

The one rule: a setting has one name. `--lr-schedule`, `PS_LR_SCHEDULE` and the file's `lr_schedule` are the same
setting, with the default that `ServerConfig` gives it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from leeway import programs, variables
from leeway.errors import SettingError
from leeway.protocol.addresses import is_host
from leeway.protocol.policy_terms import MODES
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.ps.arithmetic.aggregation.registry import RULES, form
from leeway.ps.core.endings import Goal, Plateau
from leeway.ps.settings import config
from leeway.ps.settings.config import OF_OPTIMIZERS, ServerConfig, parse_bytes
from leeway.ps.settings.config_file import ConfigFile
from leeway.ps.settings.no_effect import without_effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DEFAULTS: Final = ServerConfig()

CONFIG_FILE: Final = "leeway.ps.settings.config_file"
"""Where in `click.Context.meta` the `ConfigFile` is kept that was read, if one was."""


class Setting(click.Option):
    """One setting: `key` is its name in the file, `name` the field of `ServerConfig` (which carries the unit)."""

    def __init__(self, flag: str, type: Any, help: str, *, field: str | None = None, metavar: str | None = None):
        self.key = flag.partition("/")[0].removeprefix("--").replace("-", "_")
        field = field or self.key
        super().__init__(
            [flag, field],
            type=type,
            help=help,
            metavar=metavar,
            envvar=f"PS_{self.key.upper()}",
            default=getattr(_DEFAULTS, field),
            show_default=True,
        )

    def origin(self, ctx: click.Context) -> str:
        """Where the effective value comes from, in words."""
        match ctx.get_parameter_source(self.name):
            case ParameterSource.COMMANDLINE:
                return "flag"
            case ParameterSource.ENVIRONMENT:
                return f"environment {self.envvar}"
            case ParameterSource.DEFAULT_MAP:
                return f"file {ctx.meta[CONFIG_FILE].path}"
            case _:
                return "default"

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return self.opts[0] if ctx is None else f"{self.opts[0]} ({self.origin(ctx)})"


class _Read(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click alone
    """What a function reads from text; it raises `ValueError` with what is wrong."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _grace(text: str) -> float | None:
    """Seconds, or `auto`, which is None."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number of seconds, nor auto") from None


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not is_host(name) or ":" in name:
            raise ValueError(f"{name[:80]!r} is no name of a host")
    return names


_INPUT_FILE = programs.GivenPath(exists=True, dir_okay=False, path_type=Path)
_OUTPUT_FILE = programs.GivenPath(dir_okay=False, path_type=Path)
_FOLDER = programs.GivenPath(file_okay=False, path_type=Path)

SECTIONS: Final = {
    "Serving": (
        Setting("--host", str, "Address to listen on; 0.0.0.0 for all of this machine.", metavar="ADDRESS"),
        Setting("--port", int, "Port to listen on; 0 takes a free one.", metavar="PORT"),
        Setting(
            "--max-body",
            _Read("bytes", parse_bytes),
            "Largest request body, as 512MiB or 4GB. It has to hold the whole model.",
            field="max_body_bytes",
            metavar="BYTES",
        ),
    ),
    "Who gets in": (
        Setting("--tls-cert", _INPUT_FILE, "Serve https with this certificate, a PEM file.", metavar="FILE"),
        Setting("--tls-key", _INPUT_FILE, "Its key; nobody else may be able to read it.", metavar="FILE"),
        Setting(
            "--tls-client-ca",
            _INPUT_FILE,
            "Let in only who shows a certificate of these authorities.",
            metavar="FILE",
        ),
        Setting(
            "--tokens",
            _INPUT_FILE,
            "Let in only who shows one of these tokens: a file that ps-keys makes. Read anew at SIGHUP.",
            metavar="FILE",
        ),
        Setting(
            "--allowed-host",
            _Read("names", _names),
            "Names, with commas between, under which the server may be asked beside this machine's own: of a proxy.",
            field="allowed_hosts",
            metavar="NAMES",
        ),
        Setting("--insecure/--no-insecure", bool, "Listen beyond this machine although anybody would get in."),
    ),
    "Policy": (
        Setting("--mode", click.Choice(MODES), "When workers wait for each other."),
        Setting(
            "--staleness",
            int,
            "Under ssp: iterations that a worker may be ahead of the slowest.",
            metavar="N",
        ),
        Setting(
            "--quorum",
            int,
            "Under sync: pushes that a round closes with; who comes later is late. Default: all.",
            metavar="Q",
        ),
        Setting(
            "--grace",
            _Read("grace", _grace),
            "Seconds that a round waits on after its quorum; auto: as the pace of the pushes advises. Default with a "
            "quorum: auto.",
            field="grace_seconds",
            metavar="SECONDS|auto",
        ),
        Setting("--workers", int, "Workers to wait for before anybody computes.", metavar="N"),
        Setting("--until", int, "Stop when every worker has reached this iteration.", metavar="N"),
        Setting("--until-seconds", float, "Stop so long after the start.", metavar="SECONDS"),
        Setting(
            "--until-metric",
            _Read("condition", Goal.parse),
            "Stop when a worker reports a figure that is so: 'test_accuracy>=0.97' (>=, <=, >, <).",
            metavar="CONDITION",
        ),
        Setting(
            "--until-flat",
            _Read("plateau", Plateau.parse),
            "Stop when a figure that workers report was no better for so many versions; lower is better, but for :max.",
            metavar="FIGURE:VERSIONS[:max]",
        ),
        Setting(
            "--lease",
            float,
            "Seconds of silence after which a worker is evicted.",
            field="lease_seconds",
            metavar="SECONDS",
        ),
        Setting(
            "--max-iteration-seconds",
            float,
            "Evict a worker whose iteration takes longer, even if it sends heartbeats. Default: no limit.",
            metavar="SECONDS",
        ),
    ),
    "Optimizer": (
        Setting(
            "--aggregation",
            str,
            f"What is made of a round's updates: {', '.join(form(name) for name in RULES)}.",
            metavar="RULE",
        ),
        Setting("--optimizer", click.Choice(config.OPTIMIZERS), "How an update becomes a step."),
        Setting("--lr", float, "Learning rate; under async and ssp start from what sync wants / workers."),
        Setting("--momentum", float, "Of momentum and nesterov (default: 0.9) and rmsprop (default: none)."),
        Setting("--beta1", float, "Of adam and adamw."),
        Setting("--beta2", float, "Of adam and adamw."),
        Setting("--alpha", float, "Of rmsprop: how much the mean of squares keeps at each step."),
        Setting("--rho", float, "Of adadelta: likewise."),
        Setting("--centered/--no-centered", bool, "Of rmsprop: divide by the deviation, which costs one more state."),
        Setting(
            "--eps",
            float,
            "Of adam, adamw, adagrad, rmsprop and adadelta. Default: torch's, 1e-8 (adagrad: 1e-10, adadelta: 1e-6).",
        ),
        Setting("--lr-schedule", click.Choice(config.LR_SCHEDULES), "How the learning rate goes down."),
        Setting(
            "--schedule-steps",
            int,
            "Versions that cosine and linear take, or between two drops of step. Default, but for step: until the end.",
            metavar="N",
        ),
        Setting("--lr-gamma", float, "Factor of each drop of step."),
        Setting("--min-lr", float, "Where cosine and linear end, and below which step does not go."),
        Setting(
            "--warmup",
            int,
            "Versions over which the learning rate rises to its value.",
            field="warmup_steps",
            metavar="N",
        ),
        Setting("--clip-norm", float, "Scale gradients down to this norm, after aggregation. Default: off."),
        Setting("--weight-decay", float, "As the optimizer defines it."),
        Setting("--decay-vectors/--no-decay-vectors", bool, "Weight decay for biases and norms too."),
        Setting(
            "--delta-scale",
            float,
            "Factor for the deltas of local steps. Default: 1 / workers under async and ssp, 1 under sync.",
        ),
        Setting("--non-finite", click.Choice(config.NON_FINITE), "What to do with NaN or infinity in an update."),
    ),
    "Bad workers": (
        Setting("--max-update-norm", float, "Refuse updates of a larger norm. Default: no limit."),
        Setting(
            "--max-update-norm-ratio",
            float,
            "Refuse updates whose norm is so many times the median of the last ones. Default: no limit.",
        ),
        Setting(
            "--quarantine-after",
            int,
            "Keep a rank out when so many of its updates in a row were refused for their norm.",
            metavar="N",
        ),
        Setting(
            "--max-requests-per-second",
            float,
            "Of each rank, and of each token; more have to wait. Default: no limit.",
        ),
        Setting(
            "--max-bytes-per-second",
            _Read("bytes", parse_bytes),
            "Of each rank, and of each token, both ways, as 50MiB. Default: no limit.",
            metavar="BYTES",
        ),
    ),
    "State": (
        Setting("--init", _INPUT_FILE, "Initial weights, a safetensors file.", metavar="FILE"),
        Setting("--state-dir", _FOLDER, "Folder for checkpoints; without it nothing is saved.", metavar="DIR"),
        Setting("--checkpoint-every", int, "Save after so many versions. Default: at the end.", metavar="N"),
        Setting("--checkpoint-keep", int, "Checkpoints to keep.", metavar="N"),
        Setting("--resume/--no-resume", bool, "Go on from the newest checkpoint in --state-dir."),
    ),
    "Watching": (
        Setting("--history", _OUTPUT_FILE, "Write every decision to this file, as JSON lines.", metavar="FILE"),
        Setting("--log-level", click.Choice(config.LOG_LEVELS), "Least important line that is logged."),
        Setting(
            "--log-format",
            click.Choice(config.LOG_FORMATS),
            "auto: for people on a terminal, JSON elsewhere.",
        ),
    ),
}

SETTINGS: Final = tuple(setting for settings in SECTIONS.values() for setting in settings)

GROUP_SETTINGS: Final = {
    setting.key: setting for setting in SETTINGS if setting.name in config.GroupSettings.__dataclass_fields__
}
"""By key: what may stand in a `[group.NAME]` table beside `keys`."""


def read_config_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Make the file's values the defaults of this invocation. It stands between environment and defaults."""
    if path is not None:
        by_key = {setting.key: setting for setting in SETTINGS}
        file = ConfigFile.read(path, by_key, GROUP_SETTINGS)
        ctx.meta[CONFIG_FILE] = file
        ctx.default_map = {by_key[key].name or key: text for key, text in file.settings.items()}
    return path


def config_option() -> click.Option:
    """`--config`: read before all others, for it decides their defaults."""
    return click.Option(
        ["--config", "config_path"],
        type=programs.GivenPath(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=read_config_file,
        envvar="PS_CONFIG",
        metavar="FILE",
        help="Settings as TOML, under the names of their flags with _ for -; [group.NAME] for groups.",
    )


def server_config(ctx: click.Context) -> ServerConfig:
    """The effective settings of this invocation. Raises `SettingError` when they do not go together."""
    try:
        config = _server_config(ctx)
    except ValueError as error:
        raise SettingError(str(error)) from error
    return replace(config, without_effect=tuple(_without_effect(ctx, config)))


def _without_effect(ctx: click.Context, config: ServerConfig) -> Iterator[tuple[str, str]]:
    """The settings that were given and change nothing, as `config show` names them, and why; misspelled variables."""
    file: ConfigFile | None = ctx.meta.get(CONFIG_FILE)
    given = [setting.name or "" for setting in SETTINGS if setting.origin(ctx) != "default"]
    tables = file.group_settings if file else {}
    in_tables = {name: [GROUP_SETTINGS[key].name or "" for key in table] for name, table in tables.items()}
    keys = {setting.name: setting.key for setting in SETTINGS}
    for (group, field), why in without_effect(config, given, in_tables).items():
        yield keys[field] if group == DEFAULT_GROUP else f"group.{group}.{keys[field]}", why
    for name, nearest in variables.misspelled(os.environ, {str(setting.envvar) for setting in SETTINGS}).items():
        yield name, f"no command knows this variable; the nearest is {nearest}"


def _server_config(ctx: click.Context) -> ServerConfig:
    chosen = any(setting.name in OF_OPTIMIZERS and setting.origin(ctx) != "default" for setting in SETTINGS)
    given = {setting.name: ctx.params[setting.name] for setting in SETTINGS if setting.name}
    base = ServerConfig(**given, optimizer_chosen=chosen)
    file: ConfigFile | None = ctx.meta.get(CONFIG_FILE)
    if file is None:
        return base
    tables: dict[str, dict[str, Any]] = {}
    for name, texts in file.group_settings.items():
        tables[name] = {"keys": file.group_keys[name]}
        for key, text in texts.items():
            setting = GROUP_SETTINGS[key]
            try:
                tables[name][setting.name or key] = setting.type.convert(text, setting, ctx)
            except click.BadParameter as error:
                raise ValueError(f"{file.path}, [group.{name}]: {key}: {error.message}") from error
    return base.with_groups(tables)
