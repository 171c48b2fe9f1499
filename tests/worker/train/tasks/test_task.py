import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from leeway.errors import TaskError
from leeway.worker.train.tasks.task import BUILT_IN, Task, choose_model, of_stages, resolve, resolve_of_files

DOCUMENT = Path(__file__).parents[4] / "docs" / "reference" / "tasks.md"

COMPLETE = """
class Mine:
    name = "mine"
    def __init__(self, data_dir, model=None):
        self.made_with = data_dir, model
    def model(self, seed): ...
    def train_samples(self): ...
    def batch(self, indices, device): ...
    def loss(self, model, inputs, targets): ...
    def evaluate(self, model, device): ...
"""


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """Undo what loading a user's task leaves in the interpreter."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("task_file_", "leeway_test_")):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.py"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


class TestNames:
    def test_built_in_names_lead_to_their_classes(self):
        for built_in in BUILT_IN.values():
            create = resolve(built_in.target)
            assert callable(create)

    def test_the_digits_by_name(self, tmp_path):
        assert resolve("digits")(tmp_path, None).name == "digits"

    def test_an_unknown_name_lists_the_built_in_ones(self):
        with pytest.raises(TaskError) as caught:
            resolve("digit")
        assert str(caught.value) == (
            "no task 'digit'; the nearest is 'digits'; the built-in ones are linreg, digits, heights, mnist, cifar10,"
            " a9a, shakespeare, and your own is named module:object or file.py:object"
        )

    def test_descriptions_fit_a_help_page(self):
        assert all(0 < len(built_in.description) < 60 for built_in in BUILT_IN.values())

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_every_task_is_documented(self, name):
        assert f"| `{name}` |" in DOCUMENT.read_text()

    def test_the_names_need_no_torch(self):
        check = "import sys, worker.train.tasks.task; sys.exit('torch' in sys.modules)"
        root = Path(__file__).parents[4]
        assert subprocess.run([sys.executable, "-c", check], cwd=root, check=False).returncode == 0

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_an_unknown_model_is_refused_before_any_file_is_read(self, tmp_path, name):
        with pytest.raises(TaskError, match=f"task {name} has no model 'vgg'; it has "):
            resolve(name)(tmp_path / "nowhere", "vgg")

    def test_the_first_model_is_the_default(self):
        assert choose_model("x", None, ("a", "b")) == "a"
        assert choose_model("x", "b", ("a", "b")) == "b"


class TestFiles:
    def test_a_task_from_a_file_gets_the_data_directory_and_the_model(self, write, tmp_path):
        task = resolve(f"{write(COMPLETE)}:Mine")(tmp_path, "large")
        assert task.made_with == (tmp_path, "large")

    def test_a_relative_path_is_found_from_the_working_directory(self, write, tmp_path, monkeypatch):
        write(COMPLETE)
        monkeypatch.chdir(tmp_path)
        assert resolve("mine.py:Mine")(tmp_path, None).name == "mine"

    def test_a_function_can_make_the_task(self, write, tmp_path):
        file = write(COMPLETE + "def make(data_dir, model):\n    return Mine(data_dir, 'made')\n")
        assert resolve(f"{file}:make")(tmp_path, None).made_with[1] == "made"

    def test_two_files_of_one_name_are_two_modules(self, write, tmp_path):
        (tmp_path / "other").mkdir()
        first = resolve(f"{write(COMPLETE)}:Mine")(tmp_path, None)
        second = resolve(f"{write(COMPLETE, 'other/mine.py')}:Mine")(tmp_path, None)
        assert type(first).__module__ != type(second).__module__

    def test_neighbours_can_be_imported_but_shadow_nothing(self, write, tmp_path):
        write("FROM = 'the neighbour'", "leeway_test_neighbour.py")
        write("raise RuntimeError('must not be imported')", "colorsys.py")
        sys.modules.pop("colorsys", None)
        file = write("import colorsys\nfrom leeway_test_neighbour import FROM\n" + COMPLETE)
        resolve(f"{file}:Mine")
        assert sys.path[-1] == str(tmp_path)
        assert sys.modules["colorsys"].__file__ != str(tmp_path / "colorsys.py")

    def test_a_dataclass_in_the_file_works(self, write, tmp_path):
        text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        text += "@dataclass\nclass Options:\n    rate: float = 1.0\n"
        assert resolve(f"{write(text + COMPLETE)}:Mine")(tmp_path, None).name == "mine"

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(TaskError, match=r"there is no file .*nowhere\.py"):
            resolve(f"{tmp_path}/nowhere.py:Mine")

    def test_the_authors_own_errors_come_through(self, write):
        file = write("import leeway_test_missing\n" + COMPLETE)
        with pytest.raises(ModuleNotFoundError, match="leeway_test_missing"):
            resolve(f"{file}:Mine")
        assert not [name for name in sys.modules if name.startswith("task_file_mine")]


class TestModules:
    def test_a_task_from_a_module(self, write, tmp_path, monkeypatch):
        write(COMPLETE, "leeway_test_module.py")
        monkeypatch.syspath_prepend(tmp_path)
        assert resolve("leeway_test_module:Mine")(tmp_path, None).name == "mine"

    @pytest.mark.parametrize("name", ["leeway_test_absent", "leeway_test_absent.inner", "json.leeway_test_absent"])
    def test_a_missing_module_says_how_to_name_a_file(self, name):
        with pytest.raises(TaskError, match=rf"on PYTHONPATH; for a file write {name.replace('.', '/')}\.py:object"):
            resolve(f"{name}:Mine")

    @pytest.mark.parametrize("name", ["", "tasks/mine", "..mine", "my-tasks"])
    def test_what_is_no_module_name_is_refused(self, name):
        with pytest.raises(TaskError, match=r"is no module name; write module:object, or file\.py:object"):
            resolve(f"{name}:Mine")

    def test_a_failing_import_inside_the_module_comes_through(self, write, tmp_path, monkeypatch):
        write("import leeway_test_absent", "leeway_test_module.py")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match="leeway_test_absent"):
            resolve("leeway_test_module:Mine")


class TestObjects:
    def test_a_missing_object_lists_what_is_there(self, write):
        file = write("from pathlib import Path\ndef make(data_dir, model): ...\n_hidden = print\n" + COMPLETE)
        with pytest.raises(TaskError, match=r"mine\.py has no 'Mein'; it has make, Mine$"):
            resolve(f"{file}:Mein")

    def test_a_file_with_nothing_in_it_says_so(self, write):
        with pytest.raises(TaskError, match=r"it has no class or function of its own"):
            resolve(f"{write('x = 1')}:Mine")

    def test_what_cannot_be_called_is_refused(self, write):
        with pytest.raises(TaskError, match="is a int; name a class or function"):
            resolve(f"{write('mine = 5')}:mine")

    @pytest.mark.parametrize(
        "signature", ["self", "self, data_dir", "self, data_dir, model, more", "self, *, data_dir, model"]
    )
    def test_another_signature_is_refused(self, write, signature):
        text = COMPLETE.replace("self, data_dir, model=None", signature)
        with pytest.raises(TaskError, match=r"Mine cannot be called with \(data_dir, model\): "):
            resolve(f"{write(text)}:Mine")

    def test_a_class_without_a_method_is_refused_before_it_is_made(self, write):
        text = COMPLETE.replace("def batch", "def batches").replace("def loss", "def losses")
        with pytest.raises(TaskError, match=r"is no task: it lacks batch, loss \(a task has name, model, "):
            resolve(f"{write(text)}:Mine")

    def test_a_body_inherited_from_the_protocol_does_not_count(self, write):
        text = "from leeway.worker.train.tasks.task import Task\n" + COMPLETE.replace("class Mine", "class Mine(Task)")
        with pytest.raises(TaskError, match=r"it lacks evaluate \("):
            resolve(f"{write(text.replace('def evaluate', 'def evaluated'))}:Mine")

    def test_what_a_function_makes_is_checked_when_it_is_made(self, write, tmp_path):
        create = resolve(f"{write('def make(data_dir, model): return 7')}:make")
        with pytest.raises(TaskError, match="it lacks name, model, train_samples, batch, loss, evaluate"):
            create(tmp_path, None)

    def test_a_name_may_be_given_when_the_task_is_made(self, write, tmp_path):
        text = COMPLETE.replace('    name = "mine"\n', "")
        create = resolve(f"{write(text)}:Mine")
        with pytest.raises(TaskError, match="it lacks name "):
            create(tmp_path, None)
        text = text.replace("self.made_with =", "self.name = 'made'; self.made_with =")
        assert resolve(f"{write(text, 'other.py')}:Mine")(tmp_path, None).name == "made"

    def test_a_task_error_is_a_mistake_of_the_user(self):
        assert issubclass(TaskError, ValueError)
        assert Task.__module__ == "leeway.worker.train.tasks.task"


def test_the_documented_task_trains(write, tmp_path, training):
    example, *_ = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    file = write(example, "rings.py")
    assert len([line for line in example.splitlines() if line.strip()]) <= 30
    task = resolve(f"{file}:Rings")(tmp_path, None)
    before, after = training(task, learning_rate=0.5, batch_size=32, steps=300)
    assert after["loss"] < before["loss"] / 2
    assert after["accuracy"] > 0.9
    state = torch.random.get_rng_state()
    assert torch.equal(task.model(3)[0].weight, task.model(3)[0].weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_documented_task_of_files_reads_what_it_is_told(write, tmp_path):
    _, example, _ = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    place: dict = {}
    exec(example, place)
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    for number, file in enumerate(files):
        np.save(file, np.full(number + 1, number))
    task = place["Rows"](tmp_path, of_files=True)
    assert task.rows is None
    assert task.read_files(files[1:]) == 5
    assert task.rows.tolist() == [1, 1, 2, 2, 2]


def test_the_documented_task_of_stages_says_of_outputs_what_it_says_of_the_model(write, tmp_path):
    rings, _, more = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    file = write(rings + "\n" + more, "rings.py")
    task = of_stages("rings.py:StagedRings", resolve(f"{file}:StagedRings")(tmp_path, None))
    cpu, model = torch.device("cpu"), task.model(0)
    inputs, targets = task.batch(np.arange(8), cpu)
    assert torch.equal(task.criterion(model(inputs), targets), task.loss(model, inputs, targets))
    inputs, targets = task.held_out(np.arange(task.held_out_samples()), cpu)
    with torch.inference_mode():
        assert task.figures(model(inputs), targets) == pytest.approx(task.evaluate(model, cpu))


class TestStages:
    @pytest.mark.parametrize("name", [name for name, built_in in BUILT_IN.items() if built_in.of_stages])
    def test_the_built_in_tasks_of_stages_have_what_it_takes(self, name):
        place, _, attribute = BUILT_IN[name].target.partition(":")
        assert of_stages(name, getattr(import_module(place), attribute))

    def test_another_built_in_one_says_which_can(self):
        with pytest.raises(
            TaskError, match="task a9a has a model that cannot be cut into stages; cifar10, digits, mni"
        ):
            of_stages("a9a", None)

    def test_what_is_missing_is_named(self, write, tmp_path):
        more = "    def held_out_samples(self): ...\n    def held_out(self, indices, device): ...\n"
        task = resolve(f"{write(COMPLETE + more)}:Mine")(tmp_path, None)
        with pytest.raises(TaskError) as refused:
            of_stages("mine.py:Mine", task)
        assert str(refused.value) == (
            "mine.py:Mine cannot be trained in stages: it lacks criterion, figures (with --stages a task has criterion,"
            " held_out_samples, held_out, figures too)"
        )

    def test_a_body_inherited_from_the_protocol_does_not_count(self, write, tmp_path):
        text = "from leeway.worker.train.tasks.task import StagedTask\n"
        text += COMPLETE.replace("class Mine", "class Mine(StagedTask)")
        with pytest.raises(TaskError, match="it lacks criterion, held_out_samples, held_out, figures "):
            of_stages("mine.py:Mine", resolve(f"{write(text)}:Mine")(tmp_path, None))


OF_FILES = COMPLETE.replace(
    "def __init__(self, data_dir, model=None):", "def __init__(self, data_dir, model, of_files):"
)


class TestTrainingFiles:
    def test_a_task_that_reads_files_is_made_to_read_none_yet(self, write, tmp_path):
        text = OF_FILES.replace("= data_dir, model", "= data_dir, model, of_files")
        file = write(text + "    def read_files(self, files): ...\n")
        assert resolve_of_files(f"{file}:Mine")(tmp_path, "m").made_with == (tmp_path, "m", True)

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_the_table_says_which_built_in_tasks_read_files(self, name):
        place, _, attribute = BUILT_IN[name].target.partition(":")
        assert hasattr(getattr(import_module(place), attribute), "read_files") == BUILT_IN[name].of_files

    def test_one_that_reads_none_is_told_which_can(self):
        with pytest.raises(TaskError) as refused:
            resolve_of_files("mnist")
        assert str(refused.value) == (
            "task mnist reads its training samples as a whole, not by --files; a9a and linreg can"
        )

    def test_one_that_cannot_be_made_so_is_refused(self, write):
        file = write(COMPLETE + "    def read_files(self, files): ...\n")
        with pytest.raises(TaskError, match=r"Mine cannot be called with \(data_dir, model\): .*of_files"):
            resolve_of_files(f"{file}:Mine")
