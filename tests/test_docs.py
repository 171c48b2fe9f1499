"""The hand-written pages of `docs/`: what they link to is there, what they quote exists, and what can be run is run.

What is made from the code (settings, metrics, `--help`) is `test_documented.py`'s.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tokenize
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import click
import prometheus_client
import pytest
import torch
from safetensors.torch import save_file

import leeway.ps.cli
import leeway.ps.keys.cli
import leeway.ps.top.cli
import leeway.worker.data.cli
import leeway.worker.launch.cli
import leeway.worker.train.cli
from leeway.errors import MalformedRequest
from leeway.protocol import limits, routes
from leeway.protocol.barriers import Barrier
from leeway.protocol.codes import STATUS, Code
from leeway.protocol.decoder import decode
from leeway.protocol.fields import Fields
from leeway.protocol.handovers import Call, Direction, Handover, Label, Purpose, Taken
from leeway.protocol.lives import Life
from leeway.protocol.membership import GroupState, Join, Joined
from leeway.protocol.names import REFUSED_CHARACTERS
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, LastPush, Push, Pushed, Staged, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.times import StepTimes
from leeway.protocol.tuning import PolicyState, SetPolicy
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.core import membership, progress
from leeway.ps.server.http.handlers import Handlers
from leeway.ps.server.http.sessions import Sessions
from leeway.ps.settings.options import SETTINGS
from leeway.transport.http.counts import Uncounted
from leeway.transport.http.gate import Gate
from leeway.worker.pipeline.door import HOLD_SECONDS, Door
from leeway.worker.session.refusals import REACTIONS, Reaction
from tests import frameworks
from tests.load.__main__ import parser as load_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOP = [ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "SECURITY", "CHANGELOG")]
PAGES = {str(page.relative_to(ROOT)): page for page in [*TOP, *sorted(DOCS.rglob("*.md"))] if page.exists()}
TEXTS = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}
HTTP = TEXTS["docs/reference/http.md"]

# Written by a program that has perhaps not been run yet.
MADE_LATER = (DOCS / "benchmarks", DOCS / "images")

# The address that examples use; a test's server has another.
ADDRESS = "http://127.0.0.1:8080"


class Block(NamedTuple):
    """A fenced block: its language, and what stands in `<!-- run: ... -->` above it (None: it is not run)."""

    page: str
    number: int
    language: str
    text: str
    run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"


_BLOCK = re.compile(
    r"^(?:<!-- run(?P<run>:[^>]*)? -->\n)?(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


def blocks() -> list[Block]:
    found = []
    for name, text in TEXTS.items():
        for match in _BLOCK.finditer(text):
            number = text.count("\n", 0, match.start()) + 1
            lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
            marked = match[0].startswith("<!-- run")
            run = (match["run"] or ":").removeprefix(":").strip() if marked else None
            found.append(Block(name, number, match["language"], "\n".join(lines) + "\n", run))
    return found


BLOCKS = blocks()
PYTHON = [block for block in BLOCKS if block.language == "python"]


# Links.


def anchors(text: str) -> set[str]:
    """As GitHub makes them: lower case, punctuation gone, spaces to hyphens."""
    prose = _BLOCK.sub("", text)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", TEXTS[name])):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        page = (PAGES[name].parent / path).resolve() if path else PAGES[name]
        if any(page.is_relative_to(folder) for folder in MADE_LATER):
            continue
        if not page.exists() or (anchor and anchor not in anchors(page.read_text(encoding="utf-8"))):
            dead.append(target)
    assert dead == []


def test_every_page_is_on_the_map() -> None:
    index = TEXTS["docs/index.md"]
    pages = [name.removeprefix("docs/") for name in PAGES if name.startswith("docs/") and "benchmarks/" not in name]
    assert [page for page in pages if page != "index.md" and f"({page})" not in index] == []


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_are_there(name: str) -> None:
    named = re.findall(r"`((?:ps|worker|protocol|tests|examples)/[\w/]+\.\w+)(?:::\w+)?`", TEXTS[name])
    assert [path for path in named if not (ROOT / path).is_file()] == []


# Python.


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_imports_what_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("ps", "worker", "protocol"):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.e2e
@pytest.mark.parametrize("block", [block for block in PYTHON if block.run is not None], ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    assert block.run is not None
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [interpreter(block.text), "script.py", "w0"]
    if not block.run:
        (tmp_path / "script.py").write_text(block.text, encoding="utf-8")
        printed = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert (printed.returncode, printed.stdout) == (0, shown_below(block)), printed.stderr
        return
    above = BLOCKS[BLOCKS.index(block) - 1]
    if above.page == block.page and above.language == "toml":
        (tmp_path / "leeway.toml").write_text(above.text, encoding="utf-8")
    initial = tmp_path / "initial.safetensors"
    save_file({"weight": torch.zeros(2, 3)}, initial)
    serve = [sys.executable, "-m", "leeway.ps.cli", "--port", "0", *shlex.split(block.run.format(init=initial))]
    with subprocess.Popen(serve, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            (tmp_path / "script.py").write_text(block.text.replace(ADDRESS, address), encoding="utf-8")
            environment["PS_SERVER"] = address
            ran = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
            assert ran.returncode == 0, ran.stderr
            if "--until" in block.run:
                assert server.wait(30) == 0, "the run was not finished"
        finally:
            server.kill()


def interpreter(text: str) -> str:
    """What has all that a script imports."""
    framework = re.search(r"^(?:from|import) (?:lightning|transformers|accelerate)\b", text, re.MULTILINE)
    return str(frameworks.require()) if framework else sys.executable


def shown_below(block: Block) -> str:
    """The output that the page shows: the next block."""
    after = BLOCKS[BLOCKS.index(block) + 1]
    assert after.page == block.page
    assert after.language == ""
    return after.text


# Installing.

# On the package index the name is that of somebody else's package. In a requirement of our own, pip knows who is meant.
_OUR_NAME_TO_PIP = re.compile(r"install\b[^.;`\n]*[\s'\"]leeway(?![\w./])|leeway\[[a-z, ]+\]")


def what_users_read() -> dict[str, str]:
    """The pages, and all source, for messages are in it."""
    folders = ("leeway", "protocol", "transport", "ps", "worker", "examples", "deploy", "dashboards")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    kinds = {".py", ".md", ".yaml", ".html", ".js", ".mjs"}
    return TEXTS | {str(path): path.read_text(encoding="utf-8") for path in sources if path.suffix in kinds}


def test_nobody_is_told_to_install_leeway_from_the_package_index() -> None:
    told = {name: found for name, text in what_users_read().items() if (found := _OUR_NAME_TO_PIP.findall(text))}
    assert told == {}


@pytest.mark.parametrize(
    "words",
    ["`pip install leeway`", "pip install 'leeway'", "install -U leeway", "or install leeway ", "leeway[tasks]"],
)
def test_that_would_be_noticed(words: str) -> None:
    assert _OUR_NAME_TO_PIP.search(words)


# Commands.

COMMANDS: dict[str, tuple[click.Command, ...]] = {
    "ps-serve": (leeway.ps.cli.command,),
    "ps-worker": (leeway.worker.train.cli.command,),
    "ps-launch": (leeway.worker.launch.cli.command, leeway.ps.cli.command),
    "ps-top": (leeway.ps.top.cli.command,),
    "ps-data": (leeway.worker.data.cli.get, leeway.worker.data.cli.show),
    "ps-keys": tuple(leeway.ps.keys.cli.command.commands.values()),
}


def quoted_commands() -> list[tuple[str, list[str]]]:
    """Every call of our commands in blocks and in `code`, as words."""
    found = []
    for name, text in TEXTS.items():
        prose = [line for line in _BLOCK.sub("", text).split("`")[1::2] if "\n" not in line]
        shells = [block for block in BLOCKS if block.page == name and block.language in ("console", "bash", "sh")]
        lines = [line for block in shells for line in block.text.splitlines()]
        for line in [*prose, *lines]:
            for piece in re.split(r"(?<!\S)(?:&&|&|\||;)(?!\S)", line):
                try:
                    words = shlex.split(piece, comments=True)
                except ValueError:
                    continue
                for place, word in enumerate(words):
                    if word in COMMANDS:
                        found.append((name, words[place:]))
                        break
    return found


QUOTED = quoted_commands()


def test_commands_are_found() -> None:
    assert len(QUOTED) > 20
    assert {words[0] for _, words in QUOTED} == set(COMMANDS)


@pytest.mark.parametrize("command", QUOTED, ids=lambda command: f"{command[0]}: {' '.join(command[1])[:60]}")
def test_flags_of_quoted_commands_exist(command: tuple[str, list[str]]) -> None:
    _, (program, *words) = command
    params = [param for one in COMMANDS[program] for param in one.params if isinstance(param, click.Option)]
    options = {flag: param for param in params for flag in (*param.opts, *param.secondary_opts)}
    options |= {"--help": None, "-h": None, "--version": None, "--json": None}
    for place, word in enumerate(words):
        flag = word.partition("=")[0]
        if not flag.startswith("--"):
            continue
        assert flag in options, f"{program} has no {flag}"
        param = options[flag]
        following = words[place + 1] if place + 1 < len(words) else None
        if isinstance(param, click.Option) and isinstance(param.type, click.Choice) and following not in (None, "..."):
            assert set(following.split("|")) <= set(param.type.choices), f"{flag} {following}"


def test_flags_in_prose_exist() -> None:
    """`--flag` alone in code, wherever it stands in the pages for users."""
    known = {flag for commands in COMMANDS.values() for one in commands for param in one.params for flag in param.opts}
    known |= {flag for setting in SETTINGS for flag in setting.secondary_opts}
    known |= set(re.findall(r"--[a-z][a-z-]*", load_parser().format_help()))
    known |= {"--help", "--version", "--json", "--rewrite", "--only", "--full", "--quick", "--max-restarts"}
    known |= {"--open", "--keep"}  # the demos'
    known |= {"--cacert", "--from-file"}  # those of curl and kubectl
    unknown = {}
    for name in PAGES:
        if name.startswith("docs/benchmarks"):
            continue
        prose = _BLOCK.sub("", TEXTS[name])
        flags = set(re.findall(r"`(--[a-z][a-z-]*)[ `]", prose)) - known
        if flags:
            unknown[name] = flags
    assert unknown == {}


# The HTTP surface.


def served_routes() -> set[str]:
    metrics = SimpleNamespace(registry=prometheus_client.CollectorRegistry())
    runtime = SimpleNamespace(metrics=metrics, feed=None, pool=SimpleNamespace(take=None))
    handlers = Handlers(runtime, None, 0, Uncounted(), Gate(), Sessions(float, secure=False))
    return {f"{route.method} {route.path}" for route in handlers.table()}


def between_stages() -> set[str]:
    """What stages answer to each other, and no server does."""
    door = object.__new__(Door)
    return {f"{route.method} {route.path}" for route in door.routes() if route.path != routes.LIVE}


def rows(heading: str) -> list[list[str]]:
    """The table below a heading of the HTTP page, without its head."""
    section = HTTP.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_routes_are_those_that_are_served() -> None:
    documented = [re.match(r"`([A-Z]+ [^?\[`]*)", row[0]) for row in rows("Routes")]
    assert {match[1] for match in documented if match} == served_routes()


def test_the_reasons_are_all_reasons() -> None:
    assert [row[0].strip("`") for row in rows("Reasons")] == [str(reason) for reason in Reason]


def test_the_dispositions_are_all_dispositions() -> None:
    documented = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows("Push")))
    assert sorted(documented) == sorted(str(one) for one in Disposition)


_REACTIONS = {
    Reaction.AGAIN: "the same again, later",
    Reaction.WAIT: "wait as told, and the same again",
    Reaction.REJOIN: "join again, same session",
    Reaction.DROP: "join again for the clock",
    Reaction.NEW_LIFE: "join again, new session",
    Reaction.NEXT_LIFE: "join again, same session",
    Reaction.STOP: "end",
    Reaction.FINISH: "end",
    Reaction.SKIP: "push a skip instead",
    Reaction.LEAVE: "leave, tell the user",
    Reaction.TELL: "tell the user",
}


def test_the_errors_are_all_codes_with_their_status_and_what_a_worker_does() -> None:
    documented = {row[1].strip("`"): (int(row[0]), row[-1]) for row in rows("Errors")}
    assert documented == {str(code): (STATUS[code], _REACTIONS[REACTIONS[code]]) for code in Code}


@pytest.mark.parametrize("name", PAGES)
def test_paths_that_are_quoted_are_served(name: str) -> None:
    paths = {route.partition(" ")[2] for route in served_routes() | between_stages()}
    patterns = [re.compile(re.sub(r"\{\w+\}", "[^/]+", path)) for path in paths]
    quoted = re.findall(r"(?:8080|[A-Z`]) ?(/(?:v1|livez|readyz|openapi|metrics)[\w/{}.-]*)", TEXTS[name])
    assert [path for path in quoted if not any(one.fullmatch(path.rstrip(".")) for one in patterns)] == []


@pytest.mark.parametrize("message", [Joined, GroupState, LastPush, Granted, NotYet, Pushed, Staged, PolicyState, Taken])
def test_every_field_of_a_reply_is_told(message: type) -> None:
    names = {field.name for field in dataclasses.fields(message)}
    if "terms" in names:
        # On the wire they are fields of the message.
        names = names - {"terms"} | {field.name for field in dataclasses.fields(PolicyTerms)}
    assert [name for name in sorted(names) if f'"{name}"' not in HTTP] == []


def test_every_field_of_a_push_is_told() -> None:
    push = Push(Life("w0", 1, 1), 0, 1, UpdateKind.GRADIENT, 1, round=0, metrics={"loss": 1.0}, times=StepTimes(4))
    told = [*push.to_fields(), *StepTimes().to_fields()]
    assert [name for name in told if f'"{name}"' not in HTTP] == []


def test_every_field_of_a_handover_is_told_and_is_needed() -> None:
    label = Label(Life("w3", 17, 1), 0, 1, 41, Direction.FORWARD, 2)
    specs = (TensorSpec("y", (2, 3), "bfloat16", Kind.FLOAT_BUFFER),)
    fields = Handover(label, Call(Purpose.TRAIN, 3), 2, 6, (("y", "float32"),)).to_fields()
    assert [name for name in fields if f'"{name}"' not in HTTP] == []
    (route,) = between_stages()
    assert f"`{route}?{'&'.join(f'{name}=' for name in label.to_fields())}`" in HTTP
    for name in label.to_fields():
        with pytest.raises(MalformedRequest, match=f"'{name}' is missing"):
            Label.read(Fields(label.to_fields() | {name: None}, "handover"))
    for name in fields:
        with pytest.raises(MalformedRequest, match=f"'{name}' is missing"):
            Handover.read(Fields(fields | {name: None}, "handover"), label, specs)


def test_the_directions_of_a_handover_are_all_directions() -> None:
    assert [row[0].strip("`") for row in rows("Handovers between stages")] == [*Direction]


def test_the_example_of_a_handover_is_the_vector() -> None:
    example = HTTP.partition("The message and the tensors of the vector `handover`")[2].split("```")[1].split("\n")
    frame = decode(bytes.fromhex((DOCS / "reference" / "frame-vectors" / "handover.hex").read_text("ascii")))
    assert json.loads(example[1]) == frame.message
    told = [line.split()[:3] for line in example[2:] if line]
    assert told == [[spec.name, spec.dtype, str(spec.kind)] for spec in frame.specs]
    label = Label(Life("w3", 17, 1), 0, 1, 41, Direction.FORWARD, 2)
    assert Handover.read(Fields(frame.message, "handover"), label, frame.specs).to_fields() == frame.message


def test_how_long_a_handover_is_held() -> None:
    assert f"After {HOLD_SECONDS:g} s of that the answer is 503 `busy`" in HTTP


def test_what_can_be_changed_of_an_optimizer_is_told() -> None:
    page = TEXTS["docs/how-to/switch-live.md"]
    assert [field.name for field in dataclasses.fields(OptimizerSettings) if f"`{field.name}`" not in page] == []


_LIFE = {"rank": "w0", "epoch": 1, "incarnation": 1, "stage": 0}

# A request with all its fields, and what reads it.
_WHOLE = {
    "join": (
        {"rank": "w0", "session": "s", "groups": ["default"], "place": {"stage": 0, "stages": 1}},
        Join.read,
    ),
    "pull": (
        _LIFE | {"clock": 1, "group": "default", "min_version": 1, "since": "1.1"},
        lambda fields: Pull.read(fields, None),
    ),
    "push": (
        _LIFE
        | {"clock": 1, "version": 1, "kind": "skip", "samples": 0, "group": "default", "round": 1, "part": 0}
        | {"parts": 1, "metrics": {}, "times": StepTimes(4).to_fields()},
        lambda fields: Push.read(fields, ()),
    ),
    "barrier": (_LIFE | {"generation": 0, "parties": 1}, lambda fields: Barrier.read(fields, "b", None)),
    "policy": (
        {"mode": "ssp", "staleness": 1, "quorum": 1, "grace_seconds": 0.5},
        lambda fields: SetPolicy.read(fields, "default"),
    ),
}


@pytest.mark.parametrize("request_name", _WHOLE)
def test_what_may_be_left_out_is_told_and_all_else_is_needed(request_name: str) -> None:
    whole, read = _WHOLE[request_name]
    told = {row[1].strip("`") for row in rows("What may be left out") if row[0] == request_name}
    optional = set()
    unknown = Fields(whole | {"of": "tomorrow"}, "request")
    if request_name == "policy":
        # A person sets it: that is no field of tomorrow, but a slip of the pen.
        with pytest.raises(MalformedRequest, match=f"'of' is not known; known are {', '.join(whole)}"):
            read(unknown)
    else:
        read(unknown)
    for name in whole:
        for without in ({key: value for key, value in whole.items() if key != name}, whole | {name: None}):
            try:
                read(Fields(without, "request"))
            except MalformedRequest:
                continue
            optional.add(name)
    # These are in the query, beside the message; `keys` and `pull` are read there.
    assert optional == told - {"keys", "pull"} - ({"group"} if request_name == "policy" else set())


def characters_table() -> str:
    """What is refused in names of tensors."""
    runs = [f"U+{first:04X}" if first == last else f"U+{first:04X}–{last:04X}" for first, last in REFUSED_CHARACTERS]
    lines = [", ".join(runs[at : at + 6]) for at in range(0, len(runs), 6)]
    return ",\n".join(lines)


def test_the_characters_refused_in_names_are_told(rewrite: bool) -> None:
    page = DOCS / "reference" / "frame-format.md"
    text = page.read_text(encoding="utf-8")
    before, marker, rest = text.partition("<!-- characters -->\n")
    _, end, after = rest.partition("<!-- end of characters -->")
    fresh = f"{before}{marker}{characters_table()}\n{end}{after}"
    if rewrite:
        page.write_text(fresh, encoding="utf-8")
    assert fresh == (fresh if rewrite else text), "run `python -m pytest tests/test_docs.py --rewrite`"


# Limits.


def limits_table() -> str:
    """Every constant of `protocol/limits.py` with its value and the reason above it."""
    lines = ["| limit | value | reason |", "| --- | ---: | --- |"]
    reason: list[str] = []
    tokens = tokenize.generate_tokens(io.StringIO(Path(limits.__file__).read_text(encoding="utf-8")).readline)
    for token in tokens:
        if token.type == tokenize.COMMENT:
            reason.append(token.string.lstrip("# "))
        elif token.type == tokenize.NAME and token.string.isupper() and token.start[1] == 0:
            value = getattr(limits, token.string)
            shown = f"{value:,}" if value != 2**63 - 1 else "2^63 - 1"
            lines.append(f"| `{token.string}` | {shown} | {' '.join(reason)} |")
            reason = []
    return "\n".join(lines)


def test_limits_are_those_of_the_code(rewrite: bool) -> None:
    page = DOCS / "topics" / "limits.md"
    text = page.read_text(encoding="utf-8")
    before, marker, rest = text.partition("<!-- limits -->\n")
    fresh = f"{before}{marker}{limits_table()}\n<!-- end of limits -->{rest.partition('<!-- end of limits -->')[2]}"
    if rewrite:
        page.write_text(fresh, encoding="utf-8")
    assert fresh == (fresh if rewrite else text), "run `python -m pytest tests/test_docs.py --rewrite`"


def test_every_limit_has_a_reason() -> None:
    named = [name for name in vars(limits) if name.isupper()]
    made = limits_table()
    assert [name for name in named if f"| `{name}` |" not in made] == []
    assert [line for line in made.splitlines() if line.endswith("|  |")] == []


def test_what_the_page_on_limits_says_beside_the_table() -> None:
    assert membership.REMEMBERED_LIVES == 16
    assert progress.REMEMBERED_GRANTS == 16


# The papers at the top.


@pytest.mark.parametrize("name", [str(page.relative_to(ROOT)) for page in TOP])
def test_make_targets_that_are_quoted_exist(name: str) -> None:
    if name not in TEXTS or not (ROOT / "Makefile").exists():
        pytest.skip(f"there is no {name}, or no Makefile, yet")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    quoted = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXTS[name], re.MULTILINE))
    assert quoted <= targets
