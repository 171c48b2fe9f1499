import json
import resource
import signal
from contextlib import suppress

import pytest
import safetensors
import safetensors.torch
import torch

from leeway.errors import CheckpointError
from leeway.protocol.frames import Frame
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.arithmetic.parameters import Parameters, Saved, Update
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings
from leeway.ps.storage.checkpoints import Checkpoint, Checkpoints, read
from leeway.ps.storage.files import PARTIAL_SUFFIX
from leeway.ps.storage.initial import load_initial
from leeway.transport.memory.pool import Pool

EMPTY = Checkpoint({"clock": 3}, {})


@pytest.fixture
def frame(layout, body):
    return Frame({"samples": 7, "metrics": {"loss": 0.25}}, tuple(layout.places.values()), body)


@pytest.fixture
def saved(layout, body):
    return Saved(5, layout, body.toreadonly(), {}, {"steps": 4, "settings": {"kind": "sgd"}})


def test_everything_comes_back(tmp_path, layout, body, frame, saved):
    frozen = Layout.of([TensorSpec("odd.name/with slash", (2,), "float32", Kind.FLOAT_BUFFER)])
    other = Saved(1, frozen, memoryview(bytearray(64)), {"step/w": torch.tensor(3.0)}, {"steps": 0})
    core = {"epoch": 17, "workers": {"w0": [1, None, 2.5]}, "text": "é\n"}
    path = Checkpoints(tmp_path).write(Checkpoint(core, {"default": saved, "b.2": other}, [frame]), 5)
    assert path == tmp_path / "checkpoint-000000000005.safetensors"
    found = read(path)
    assert found.core == core
    assert list(found.groups) == ["default", "b.2"]
    group = found.groups["default"]
    assert (group.number, group.layout, bytes(group.body)) == (5, layout, bytes(body))
    assert group.optimizer == saved.optimizer
    assert found.groups["b.2"].layout == frozen
    assert found.groups["b.2"].optimizer_tensors == {"step/w": torch.tensor(3.0)}
    (held,) = found.held
    assert (held.message, held.places, bytes(held.body)) == (frame.message, frame.places, bytes(frame.body))
    assert not held.body.readonly


def test_an_empty_group_comes_back(tmp_path):
    nothing = Saved(0, Layout.of(()), memoryview(b""), {}, {"steps": 0})
    found = read(Checkpoints(tmp_path).write(Checkpoint({}, {"default": nothing}, [Frame({}, (), memoryview(b""))]), 0))
    assert (found.groups["default"].number, len(found.groups["default"].layout)) == (0, 0)
    assert found.held[0].places == ()


def test_other_tools_open_it(tmp_path, tensors, saved, same):
    path = Checkpoints(tmp_path).write(Checkpoint({}, {"default": saved}), 1)
    found = safetensors.torch.load_file(path)
    assert found.pop("digest").numel() == 32
    same(found, {f"model/default/{name}": tensor for name, tensor in tensors.items()})


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_a_group_goes_on_from_the_file_bit_by_bit(tmp_path, frame, tensors, kind):
    settings = OptimizerSettings(kind, lr=0.1)
    one = Parameters(settings, Pool())
    one.versions.publish(one.offer(1, frame, set(tensors)))
    update = [Update("gradient", 1, (frame,))]
    one.versions.publish(one.step(2, update, aggregated=False).snapshot)
    path = Checkpoints(tmp_path).write(Checkpoint({}, {"default": one.save()}), 2)
    two = Parameters(settings, Pool())
    two.versions.publish(two.restore(read(path).groups["default"]))
    path.unlink()
    expected, found = one.step(3, update, aggregated=False), two.step(3, update, aggregated=False)
    assert bytes(found.snapshot.body) == bytes(expected.snapshot.body)


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_masters_go_into_the_file_and_a_file_without_them_is_read(tmp_path, frame, tensors, kind):
    settings = OptimizerSettings(kind, lr=1e-4)
    one = Parameters(settings, Pool())
    one.versions.publish(one.offer(1, frame, set(tensors)))
    update = [Update("gradient", 1, (frame,))]
    one.versions.publish(one.step(2, update, aggregated=False).snapshot)
    saved = one.save()
    assert saved.masters.keys() == {"half", "brain"}
    group = read(Checkpoints(tmp_path).write(Checkpoint({}, {"default": saved}), 2)).groups["default"]
    assert all(torch.equal(group.masters[name], saved.masters[name]) for name in saved.masters)
    two = Parameters(settings, Pool())
    two.versions.publish(two.restore(group))
    assert bytes(two.step(3, update, aggregated=False).snapshot.body) == bytes(
        one.step(3, update, aggregated=False).snapshot.body
    )


def without_masters(path):
    """The file as it was written before there were masters, and digests."""
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["leeway"]) | {"format": 1}
        names = [name for name in file.keys() if not name.startswith("master/") and name != "digest"]  # noqa: SIM118
        kept = {name: file.get_tensor(name) for name in names}
    for group in description["groups"].values():
        del group["masters"]
    safetensors.torch.save_file(kept, path, {"leeway": json.dumps(description)})


def test_a_file_of_before_there_were_masters_is_read(tmp_path, frame, tensors):
    one = Parameters(OptimizerSettings(lr=1e-4), Pool())
    one.versions.publish(one.offer(1, frame, set(tensors)))
    one.versions.publish(one.step(2, [Update("gradient", 1, (frame,))], aggregated=False).snapshot)
    path = Checkpoints(tmp_path).write(Checkpoint({}, {"default": one.save()}), 2)
    without_masters(path)
    group = read(path).groups["default"]
    assert group.masters == {}
    two = Parameters(OptimizerSettings(lr=1e-4), Pool())
    assert bytes(two.restore(group).body) == bytes(one.versions.current.body)
    assert all(torch.equal(master, master.half().float()) for master in [two.save().masters["half"]])


def test_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, retained=2)
    assert (checkpoints.paths(), checkpoints.latest()) == ([], None)
    (tmp_path / "notes.txt").touch()
    paths = [checkpoints.write(EMPTY, number) for number in (1, 20, 300)]
    assert checkpoints.paths() == paths[1:]
    assert checkpoints.latest() == paths[-1]


def test_numbers_only_grow_so_that_the_newest_is_the_last_written(tmp_path):
    checkpoints = Checkpoints(tmp_path, retained=3)
    names = [checkpoints.write(EMPTY, number).name for number in (7, 7, 3)]
    assert names == [f"checkpoint-{number:012d}.safetensors" for number in (7, 8, 9)]


def test_retaining_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="retained checkpoints is 0; it must be at least 1"):
        Checkpoints(tmp_path, retained=0)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    old = checkpoints.write(EMPTY, 1)
    with pytest.raises(TypeError):
        checkpoints.write(Checkpoint({"not": {"plain": object()}}, {}), 2)
    assert checkpoints.paths() == [old]
    assert list(tmp_path.glob("*" + PARTIAL_SUFFIX)) == []


def broken_files():
    whole = {"leeway": json.dumps({"format": 1, "core": {}, "groups": {}, "held": []})}
    group = {"number": 1, "kinds": {"w": "trainable"}, "optimizer": {}, "states": []}
    save = safetensors.torch.save
    yield "empty", b"", "header"
    yield "cut", save({"w": torch.zeros(100)}, whole)[:-1], "unreadable checkpoint"
    yield "foreign", save({"w": torch.zeros(1)}), "'leeway' is missing"
    yield "no json", save({}, {"leeway": "{"}), "unreadable checkpoint"
    yield "no object", save({}, {"leeway": "[]"}), "unreadable checkpoint"
    yield "newer", save({}, {"leeway": json.dumps({"format": 3})}), "it is not what was written"
    yield "no core", save({}, {"leeway": json.dumps({"format": 1})}), "'core' is missing"
    lost = {"format": 1, "core": {}, "groups": {"g": group}, "held": []}
    yield "lost tensor", save({}, {"leeway": json.dumps(lost)}), "'model/g/w' is missing"
    wrong = {"format": 1, "core": {}, "groups": {"g": group | {"kinds": {"w": "integer-buffer"}}}, "held": []}
    yield "wrong kind", save({"model/g/w": torch.zeros(1)}, {"leeway": json.dumps(wrong)}), "needs an integer"
    held = {"format": 1, "core": {}, "groups": {}, "held": [{"message": {}, "places": []}]}
    yield "lost body", save({}, {"leeway": json.dumps(held)}), "'held/0' is missing"


@pytest.mark.parametrize(("content", "words"), [pytest.param(c, w, id=name) for name, c, w in broken_files()])
def test_what_cannot_be_read_says_so_in_one_line(tmp_path, content, words):
    path = tmp_path / "checkpoint-000000000009.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        read(path)
    text = str(raised.value)
    assert text.startswith(f"unreadable checkpoint {path}: ")
    assert words in text
    assert "\n" not in text


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "checkpoint-000000000001.safetensors")


def old(checkpoint, folder):
    """The same as a version before the digests wrote it."""
    path = Checkpoints(folder).write(checkpoint, 1)
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != "digest"}  # noqa: SIM118
        description = json.loads(file.metadata()["leeway"]) | {"format": 1}
    path.write_bytes(safetensors.torch.save(tensors, {"leeway": json.dumps(description)}))
    return path


def test_one_without_a_digest_is_read_and_says_that_it_is_not_verified(tmp_path, saved):
    assert not read(old(Checkpoint({"epoch": 5}, {"default": saved}), tmp_path)).verified
    assert read(Checkpoints(tmp_path).write(Checkpoint({"epoch": 5}, {"default": saved}), 2)).verified


def flipped(content, place, bit=0):
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_a_bit_that_is_flipped_anywhere_is_found(tmp_path, saved, frame):
    """In the length, in the names, the digits and the shapes of the header, in each tensor, in the digest itself."""
    path = Checkpoints(tmp_path).write(Checkpoint({"epoch": 5, "version": 3}, {"default": saved}, [frame]), 1)
    content = path.read_bytes()
    assert read(path).verified
    places = [*range(0, len(content), 7), *range(len(content) - 40, len(content))]
    passed = []
    for place in places:
        path.write_bytes(flipped(content, place, place % 8))
        with suppress(CheckpointError):
            read(path)
            passed.append(place)
    assert passed == []


def test_one_digit_changed_is_found_that_makes_it_look_like_an_old_one(tmp_path, saved):
    path = Checkpoints(tmp_path).write(Checkpoint({"epoch": 5}, {"default": saved}), 1)
    content = path.read_bytes()
    changed = content.replace(b'format\\": 2', b'format\\": 1')
    assert changed != content
    for damaged in (changed, content.replace(b'"digest"', b'"bigest"')):
        assert damaged != content
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="it is not what was written"):
            read(path)


@pytest.mark.parametrize("left", [0, 7, 31, 32, 100, -1])
def test_one_that_is_cut_is_found(tmp_path, saved, left):
    path = Checkpoints(tmp_path).write(Checkpoint({"epoch": 5}, {"default": saved}), 1)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError):
        read(path)


def test_a_folder_in_its_place_is_one_line(tmp_path):
    (tmp_path / "checkpoint-000000000001.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="Is a directory"):
        read(tmp_path / "checkpoint-000000000001.safetensors")


def test_one_that_cannot_be_removed_does_not_make_the_new_one_fail(tmp_path):
    (tmp_path / "checkpoint-000000000001.safetensors").mkdir()
    checkpoints = Checkpoints(tmp_path, retained=1)
    path = checkpoints.write(EMPTY, 2)
    assert read(path).verified


def test_room_that_runs_out_leaves_the_older_ones(tmp_path, layout, saved):
    checkpoints = Checkpoints(tmp_path)
    older = checkpoints.write(EMPTY, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.write(Checkpoint({}, {"default": saved}), 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoints.paths() == [older]
    assert read(older).verified


def test_a_damaged_one_gives_no_initial_values_either(tmp_path, saved, tensors):
    path = Checkpoints(tmp_path).write(Checkpoint({}, {"default": saved}), 1)
    assert {spec.name for spec in load_initial(path).specs} == set(tensors)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"initial values from .*: this checkpoint is not what was written"):
        load_initial(path)
