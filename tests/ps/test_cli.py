"""`ps-serve`: where a value comes from, what `config show` says, and mistakes as one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from leeway.errors import SettingError
from leeway.ps.cli import command, main
from leeway.ps.settings.config import ServerConfig
from leeway.ps.settings.options import SETTINGS

HEAVY = ("torch", "aiohttp", "uvloop", "numpy", "safetensors", "structlog", "prometheus_client", "rich", "asyncio")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PS_")]:
        monkeypatch.delenv(name)


def show(*arguments: str) -> dict[str, tuple[object, str]]:
    """What `config show --json` says: value and origin by key."""
    result = CliRunner().invoke(command, ["config", "show", "--json", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {key: (said["value"], said["origin"]) for key, said in json.loads(result.output).items()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr with which `ps-serve` refuses."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.startswith("ps-serve: ")
    assert said.err.count("\n") == 1
    return said.err.removeprefix("ps-serve: ").rstrip("\n")


def write(folder: Path, text: str) -> str:
    path = folder / "leeway.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestPrecedence:
    def test_everything_has_its_default(self) -> None:
        said = show()
        assert said["port"] == (8080, "default")
        assert {origin for _, origin in said.values()} == {"default"}
        assert set(said) == {setting.key for setting in SETTINGS}

    def test_flag_over_environment_over_file_over_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write(tmp_path, "port = 1\nlr = 0.5\nstaleness = 7\n")
        monkeypatch.setenv("PS_PORT", "2")
        monkeypatch.setenv("PS_LR", "0.25")
        said = show("--config", file, "--port", "3")
        assert said["port"] == (3, "flag")
        assert said["lr"] == (0.25, "environment PS_LR")
        assert said["staleness"] == (7, f"file {file}")
        assert said["mode"] == ("sync", "default")

    def test_an_aggregation_rule_is_a_setting_like_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = write(tmp_path, 'workers = 5\n[group.a]\nkeys = ["a.*"]\naggregation = "multi-krum:1,2"\n')
        monkeypatch.setenv("PS_AGGREGATION", "trimmed-mean:1")
        said = show("--config", file)
        assert said["aggregation"] == ("trimmed-mean:1", "environment PS_AGGREGATION")
        assert said["group.a.aggregation"] == ("multi-krum:1,2", f"file {file}")
        assert show("--config", file, "--aggregation", "krum:1")["aggregation"] == ("krum:1", "flag")

    def test_the_file_may_be_named_by_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PS_CONFIG", write(tmp_path, 'max_body = "2MiB"\nlease = 4\n'))
        said = show()
        assert said["max_body"][0] == 2 * 1024**2
        assert said["lease"][0] == 4.0

    def test_a_switch_can_be_turned_off_again(self, tmp_path: Path) -> None:
        file = write(tmp_path, 'resume = true\nstate_dir = "state"\n')
        assert show("--config", file)["resume"] == (True, f"file {file}")
        assert show("--config", file, "--no-resume")["resume"] == (False, "flag")

    @pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
    def test_flag_variable_key_and_field_are_one_setting(self, setting) -> None:
        assert setting.opts[0] == "--" + setting.key.replace("_", "-")
        assert setting.envvar == "PS_" + setting.key.upper()
        assert setting.default == getattr(ServerConfig(), setting.name)

    def test_every_field_has_its_setting(self) -> None:
        fields = set(ServerConfig.__dataclass_fields__) - {"named_groups", "without_effect", "optimizer_chosen"}
        assert {setting.name for setting in SETTINGS} == fields


class TestConfigShow:
    def test_plain_columns_when_not_on_a_terminal(self) -> None:
        result = CliRunner().invoke(command, ["config", "show", "--mode", "ssp"])
        rows = [line.split() for line in result.output.splitlines()]
        assert ["mode", "ssp", "flag"] in rows
        assert ["until", "-", "default"] in rows
        assert len({line.index(row[-1]) for line, row in zip(result.output.splitlines(), rows, strict=True)}) == 1

    def test_groups_show_what_their_tables_say(self, tmp_path: Path) -> None:
        file = write(tmp_path, 'lr = 1\n[group.a]\nkeys = ["a.*"]\nlr = 0.5\nwarmup = 3\n')
        said = show("--config", file)
        assert said["lr"] == (1.0, f"file {file}")
        assert said["group.a.keys"] == (["a.*"], f"file {file}")
        assert said["group.a.lr"] == (0.5, f"file {file}")
        assert said["group.a.warmup"] == (3, f"file {file}")
        assert "group.a.mode" not in said

    def test_a_misspelled_variable_is_named_with_the_nearest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PS_MOD", "ssp")
        monkeypatch.setenv("PS_BATCHSIZE", "8")  # the workers' to say
        row = json.loads(CliRunner().invoke(command, ["config", "show", "--json"]).output)["PS_MOD"]
        assert row == {
            "value": None,
            "origin": "environment",
            "no_effect": "no command knows this variable; the nearest is PS_MODE",
        }
        lines = CliRunner().invoke(command, ["config", "show"]).output.splitlines()
        assert lines[-1].endswith("environment; no effect: no command knows this variable; the nearest is PS_MODE")

    def test_what_has_no_effect_says_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = write(tmp_path, 'mode = "ssp"\n[group.a]\nkeys = ["a.*"]\nmode = "async"\nstaleness = 5\n')
        monkeypatch.setenv("PS_MOMENTUM", "0.5")
        arguments = ["config", "show", "--config", file, "--beta1", "0.8"]
        said = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)
        assert {key: row["no_effect"] for key, row in said.items() if "no_effect" in row} == {
            "group.a.staleness": "it is the bound of ssp; --mode is async",
            "momentum": "it is of momentum, nesterov and rmsprop; --optimizer is sgd",
            "beta1": "it is of adam and adamw; --optimizer is sgd",
        }
        lines = CliRunner().invoke(command, arguments).output.splitlines()
        (line,) = [line for line in lines if line.startswith("beta1")]
        assert line.endswith("flag; no effect: it is of adam and adamw; --optimizer is sgd")

    def test_options_before_the_command_are_not_silently_ignored(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = refused(capsys, "--port", "1", "config", "show")
        assert said == "put --port behind the command: ps-serve config show --port ..."


class TestTrace:
    """The trace itself is the business of `tests/ps/watching/test_trace.py`."""

    START = '{"is":"Started","epoch":7,"time":1.0}\n'

    def run(self, *arguments: str) -> object:
        with pytest.raises(SystemExit) as ended:
            main(["trace", *arguments])
        return ended.value.code

    def test_to_standard_output(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        history = tmp_path / "history.jsonl"
        history.write_text(self.START)
        assert self.run(str(history)) == 0
        names = [event["name"] for event in json.loads(capsys.readouterr().out)["traceEvents"]]
        assert names[:2] == ["started", "process_name"]

    def test_to_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        history, out = tmp_path / "history.jsonl", tmp_path / "trace.json"
        history.write_text(self.START)
        out.write_text("what was there before")
        assert self.run(str(history), "-o", str(out)) == 0
        assert capsys.readouterr().out == ""
        assert json.loads(out.read_text())["traceEvents"]
        assert sorted(tmp_path.iterdir()) == [history, out]

    def test_half_a_line_at_the_end_is_told_and_all_above_it_is_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        history, out = tmp_path / "history.jsonl", tmp_path / "trace.json"
        history.write_text(self.START + '{"t":0.5')
        said = refused(capsys, "trace", str(history), "-o", str(out))
        assert said.startswith(f"{history}, line 2: half a line, so its server was killed or still runs; the trace has")
        assert json.loads(out.read_text())["traceEvents"][0]["name"] == "started"

    @pytest.mark.parametrize("after", ["nonsense\n", '{"t":1,"event":{"is":"Asked"},"effects":[]}\n', None])
    def test_what_is_no_history_leaves_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], after: str | None
    ) -> None:
        history, out = tmp_path / "history.jsonl", tmp_path / "trace.json"
        history.write_text("loss 0.5\n" if after is None else self.START + after + self.START[:5] + "\n")
        assert refused(capsys, "trace", str(history), "-o", str(out))
        assert list(tmp_path.iterdir()) == [history]

    def test_a_file_that_cannot_be_read_or_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        missing = tmp_path / "none.jsonl"
        assert refused(capsys, "trace", str(missing)) == f"{missing}: No such file or directory"
        history = tmp_path / "history.jsonl"
        history.write_text(self.START)
        said = refused(capsys, "trace", str(history), "-o", str(tmp_path / "none" / "trace.json"))
        assert said.endswith("trace.json.part: No such file or directory")

    def test_settings_are_not_silently_ignored(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = refused(capsys, "--port", "1", "trace", "history.jsonl")
        assert said == "--port is for serving; ps-serve trace takes none of the settings"


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--mode", "bsp"], "Invalid value for --mode (flag): 'bsp' is not one of 'sync', 'async', 'ssp'."),
            (["--staleness=-1"], "--staleness is -1; it must be 0 to 1000000"),
            (["--resume"], "--resume needs --state-dir, the folder with the checkpoint to go on from"),
            (["--momentumm", "1"], "No such option '--momentumm'. Did you mean '--momentum'?"),
            (["--lease", "1e-9"], "--lease is 1e-09; it must be 0.3 or more"),
            (["--config", "none.toml"], "none.toml: No such file or directory"),
            (["config"], "Missing command."),
        ],
    )
    def test_one_line(self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
        assert refused(capsys, *arguments) == said

    @pytest.mark.parametrize("flag", [setting.opts[0] for setting in SETTINGS if not setting.is_flag])
    @pytest.mark.parametrize("value", ["9" * 5000, "9" * 4000, "x" * 5000])
    def test_a_value_of_thousands_of_characters_is_not_said_in_full(
        self, capsys: pytest.CaptureFixture[str], flag: str, value: str
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["config", "show", flag, value])
        said = capsys.readouterr().err
        assert len(said) < 600
        # Paths may be anything, as far as this can tell.
        assert ended.value.code == 2 or (flag in ("--state-dir", "--history") and not said)

    @pytest.mark.parametrize("key", ["state_dir", "init", "history", "host"])
    def test_a_nul_in_the_file_is_a_mistake(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
        said = refused(capsys, "--config", write(tmp_path, f'{key} = "a\\u0000b"\n'))
        assert "--" + key.replace("_", "-") in said

    @pytest.mark.parametrize("flag", ["--state-dir", "--init", "--history", "--config"])
    def test_a_nul_behind_a_flag_is_a_mistake(self, capsys: pytest.CaptureFixture[str], flag: str) -> None:
        assert refused(capsys, flag, "a\0b").endswith("the path has a NUL in it, which no path can have")

    def test_numbers_of_thousands_of_digits_in_the_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = write(tmp_path, f"port = 0x{'f' * 5000}\n")
        assert refused(capsys, "--config", file) == f"{file}: port is an integer of thousands of digits"
        file = write(tmp_path, f'[group.a]\nkeys = ["a"]\nstaleness = "{"9" * 5000}"\n')
        assert len(refused(capsys, "--config", file)) < 600

    def test_a_variable_is_named(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PS_PORT", "tcp://10.0.0.1:80")
        said = refused(capsys)
        assert said.startswith("Invalid value for --port (environment PS_PORT): 'tcp://10.0.0.1:80' is not")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("port = 80.5", "Invalid value for --port (file {file}): '80.5' is not a valid integer."),
            ("lr = true", "Invalid value for --lr (file {file}): 'True' is not a valid float."),
            (
                'max_body = "2 apples"',
                "Invalid value for --max-body (file {file}): '2 apples' is not a number of bytes,"
                " such as 1048576, 512MiB or 4GB",
            ),
            ("stalenes = 3", "{file}: there is no setting 'stalenes'; the nearest is 'staleness'"),
            (
                '[group.a]\nkeys = ["*"]\nstaleness = "few"',
                "{file}, [group.a]: staleness: 'few' is not a valid integer.",
            ),
            (
                '[group.a]\nkeys = ["*"]\n[group.b]\nkeys = ["*"]',
                "[group.b] can never hold a key: [group.a] above it takes all that fit its patterns; put the table with"
                " the narrower patterns first",
            ),
            ('[group.a]\nkeys = ["*"]\nstaleness = -2', "[group.a]: --staleness is -2; it must be 0 to 1000000"),
            (
                'workers = 4\n[group.a]\nkeys = ["*"]\naggregation = "krum:2"',
                "--aggregation krum:2 needs 7 updates in a round, and --workers is 4, in [group.a]; raise --workers, or"
                " choose a rule that needs fewer",
            ),
            (
                '[group.a]\nkeys = ["*"]\naggregation = "trimmed-mean"',
                "[group.a]: --aggregation: the aggregation rule 'trimmed-mean' must have the form trimmed-mean:B, such"
                " as trimmed-mean:1",
            ),
        ],
    )
    def test_the_file_is_named(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str) -> None:
        file = write(tmp_path, text)
        assert refused(capsys, "--config", file) == said.format(file=file)


class TestServing:
    """The hand-over; the real server is started in the end-to-end tests."""

    @staticmethod
    def run(monkeypatch: pytest.MonkeyPatch, serve, *arguments: str) -> object:
        monkeypatch.setitem(sys.modules, "leeway.ps.server.lifecycle", SimpleNamespace(serve=serve))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return ended.value.code

    def test_the_settings_arrive_and_the_exit_code_returns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[ServerConfig] = []

        def serve(config: ServerConfig) -> int:
            seen.append(config)
            return 3

        assert self.run(monkeypatch, serve, "--port", "0", "--lease", "2.5", "--warmup", "4") == 3
        assert seen == [ServerConfig(port=0, lease_seconds=2.5, warmup_steps=4)]

    @pytest.mark.parametrize(
        ("arguments", "variables", "text", "chosen"),
        [
            ((), {}, "", [False, False]),
            (("--mode", "async", "--delta-scale", "0.5"), {}, "", [False, False]),
            (("--lr", "0.1"), {}, "", [True, True]),
            ((), {"PS_OPTIMIZER": "adam"}, "", [True, True]),
            ((), {}, "weight_decay = 0.1", [True, True]),
            ((), {}, '[group.a]\nkeys = ["a.*"]\nlr = 0.5', [True, False]),
            ((), {}, '[group.a]\nkeys = ["a.*"]\nmode = "async"', [False, False]),
        ],
    )
    def test_whether_somebody_has_chosen_an_optimizer(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments, variables, text, chosen
    ) -> None:
        """Of the first group and of the default one."""
        seen: list[ServerConfig] = []

        def serve(config: ServerConfig) -> int:
            seen.append(config)
            return 0

        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        self.run(monkeypatch, serve, "--config", str(write(tmp_path, text)), *arguments)
        (config,) = seen
        assert [config.groups[place].optimizer_chosen for place in (0, -1)] == chosen

    def test_our_own_bug_keeps_its_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def serve(config: ServerConfig) -> int:
            raise ValueError("a bug")

        with pytest.raises(ValueError, match="a bug"):
            self.run(monkeypatch, serve)

    def test_what_it_cannot_do_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def serve(config: ServerConfig) -> int:
            raise SettingError("port 80 is taken;\n choose another")

        assert self.run(monkeypatch, serve) == 2
        assert capsys.readouterr().err == "ps-serve: port 80 is taken; choose another\n"

    def test_ctrl_c_ends_without_a_traceback(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def serve(config: ServerConfig) -> int:
            raise KeyboardInterrupt

        assert self.run(monkeypatch, serve) == 130
        assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "staleness"),
        (["config", "show"], "staleness"),
        (["config", "show", "--aggregation", "geometric-median"], "geometric-median"),
        (["trace", "history.jsonl"], "traceEvents"),
    ],
)
def test_what_does_not_serve_imports_nothing_heavy(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text(TestTrace.START)
    program = (
        "import sys; from leeway.ps.cli import command;"
        f"command.main({arguments!r}, standalone_mode=False);"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stderr.strip() == ""
    assert said in done.stdout


@pytest.mark.parametrize("flag", ["--state-dir", "--init", "--history", "--config"])
def test_an_empty_path_is_an_unset_variable_of_a_shell(flag):
    ran = CliRunner().invoke(command, [flag, ""])
    assert (ran.exit_code, "the path is empty; is the variable set" in ran.output) == (2, True)
