"""There is one name to import, `leeway`, and one file behind each module; whatever way it is installed.

The folders of the tree are links below `leeway/`: a link that goes missing, or is followed twice, shows here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import leeway

ROOT = Path(__file__).parents[1]
FOLDERS = ("protocol", "transport", "ps", "worker")

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""

EVERY_MODULE = """
import collections, importlib, os, pkgutil, sys
import leeway, dashboards
OURS = ("leeway", "ps", "worker", "protocol", "transport", "dashboards")
for package in (leeway, dashboards):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # The callbacks import frameworks that are not here.
        if not module.name.endswith(("__main__", ".lightning", ".transformers")):
            importlib.import_module(module.name)
names = collections.defaultdict(set)
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and os.path.relpath(os.path.realpath(file), sys.argv[1]).split(os.sep)[0] in OURS:
        names[os.path.realpath(file)].add(name)
print(len(names))
for twice in (found for found in names.values() if len(found) > 1):
    print(*twice)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def files_of_the_tree(tree: Path) -> set[str]:
    """What an installation must hold: every file below `leeway`, links followed."""
    found = set()
    for folder in (tree / "leeway", *(tree / name for name in FOLDERS)):
        inside = Path("leeway") if folder.name == "leeway" else Path("leeway") / folder.name
        for path in folder.rglob("*"):
            below = path.relative_to(folder)
            if path.is_file() and not (below.parts[0] in FOLDERS and inside == Path("leeway")):
                found.add(str(inside / below))
    return {name for name in found if "__pycache__" not in name}


def test_no_file_is_loaded_under_two_names():
    count, *twice = run(sys.executable, "-c", EVERY_MODULE, ROOT, cwd=ROOT, PYTHONPATH=str(ROOT)).splitlines()
    assert twice == []
    assert int(count) > 100, "the modules were not found"


def test_the_folders_are_links_and_packages_of_one_name():
    for name in FOLDERS:
        link = ROOT / "leeway" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"


def test_all_that_is_public_is_there_and_says_its_name():
    assert {name: getattr(leeway, name) for name in leeway.__all__}
    assert set(leeway.__all__) <= set(dir(leeway))
    assert re.match(r"\d+\.\d+", leeway.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'conect'"):
        _ = leeway.conect


def test_importing_it_is_cheap():
    heavy = "import sys, leeway; print({'torch', 'aiohttp', 'numpy', 'click'}.intersection(sys.modules))"
    assert run(sys.executable, "-c", heavy, cwd=ROOT, PYTHONPATH=str(ROOT)).strip() == "set()"


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_callback_without_its_framework_says_what_to_install(name):
    if find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(ImportError, match=rf"needs .*: pip install '\.\[{name}\]' in your clone"):
        import_module(f"leeway.{name}")


def test_errors_are_one_tree():
    errors = [value for name in leeway.__all__ if isinstance(value := getattr(leeway, name), type)]
    errors = [error for error in errors if issubclass(error, Exception)]
    assert len(errors) > 5
    assert all(issubclass(error, leeway.LeewayError) for error in errors)
    assert issubclass(leeway.ServerLost, ConnectionError)
    assert issubclass(leeway.SettingError, ValueError)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_pages_for_users_import_leeway_and_nothing_below_it(page):
    text = page.read_text(encoding="utf-8")
    below = r"^ *(?:from|import) (?:ps|worker|protocol|transport|leeway\.(?!(?:lightning|transformers)\b))\S*"
    assert re.findall(below, text, re.MULTILINE) == []
    assert re.findall(r"`leeway\.(?:ps|worker|protocol|transport)\b[^`]*`", text) == []


@pytest.mark.parametrize("script", sorted((ROOT / "examples").rglob("*.py")), ids=lambda script: script.name)
def test_examples_import_leeway_and_nothing_below_it(script):
    assert re.findall(r"^ *(?:from|import) leeway\.\S*", script.read_text(encoding="utf-8"), re.MULTILINE) == []


# However it is installed.


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """`git archive` of the tree as it stands, uncommitted changes of known files included."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    # Run as another user than the checkout's owner, git wants to be told that this is meant.
    git = ["git", "-c", f"safe.directory={ROOT}"]
    identity = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    tree = run(*git, "stash", "create", cwd=ROOT, **identity).strip() or "HEAD"
    path = tmp_path_factory.mktemp("archive") / "leeway.tar.gz"
    run(*git, "archive", "--format=tar.gz", "--prefix=leeway-tree/", "-o", path, tree, cwd=ROOT)
    return path


@pytest.fixture(scope="module")
def tree(archive, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="tar")
    return folder / "leeway-tree"


@pytest.fixture(scope="module")
def wheel(tree) -> Path:
    run(sys.executable, "-c", BUILD, "build_wheel", tree / "wheel", cwd=tree)
    return next((tree / "wheel").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory) -> Path:
    """`pip install` of the archive; what it needs is there already."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run(*pip, "--no-build-isolation", "--target", folder, archive, cwd=folder)
    return folder


def held_by(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_the_wheel_holds_leeway_and_its_metadata(wheel, tree):
    names = held_by(wheel)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"leeway"}
    assert len(tops) == 2
    assert {name for name in names if name.startswith("leeway/")} == files_of_the_tree(tree)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_sdist_makes_the_same_wheel(wheel, tree, tmp_path):
    run(sys.executable, "-c", BUILD, "build_sdist", tmp_path, cwd=tree)
    source = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(source) as tar:
        tar.extractall(tmp_path, filter="data")
    unpacked = source.with_name(source.name.removesuffix(".tar.gz"))
    run(sys.executable, "-c", BUILD, "build_wheel", tmp_path / "wheel", cwd=unpacked)
    again = next((tmp_path / "wheel").glob("*.whl"))
    assert held_by(again) == held_by(wheel)


def test_pip_installs_the_same_from_an_archive(installed, tree):
    held = {str(path.relative_to(installed)) for path in (installed / "leeway").rglob("*") if path.is_file()}
    assert {name for name in held if "__pycache__" not in name} == files_of_the_tree(tree)
    assert not any((installed / folder).exists() for folder in FOLDERS)


def test_modules_of_those_names_beside_a_script_change_nothing(installed, tmp_path):
    for name in FOLDERS:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong file was imported')\n", encoding="utf-8")
    (tmp_path / "script.py").write_text(
        "import leeway\n"
        "print(leeway.__file__)\n"
        "try:\n"
        "    leeway.connect('http://127.0.0.1:9', 'w0', patience_seconds=0.0)\n"
        "except leeway.ServerLost as error:\n"
        "    print('lost')\n",
        encoding="utf-8",
    )
    path = str(installed)
    printed = run(sys.executable, "script.py", cwd=tmp_path, PYTHONPATH=path).splitlines()
    assert printed[-1] == "lost"
    assert Path(printed[0]).is_relative_to(installed)
    for program in ("ps-serve", "ps-worker", "ps-launch", "ps-top"):
        assert "Usage" in run(installed / "bin" / program, "--help", cwd=tmp_path, PYTHONPATH=path)
