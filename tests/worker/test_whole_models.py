"""Models are compared, and files of initial values fit them or are refused: against `ps-serve` itself."""

import json
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
import safetensors.torch
import torch
from torch import nn

import leeway
from leeway.protocol.codes import Code
from leeway.protocol.tensors import Kind
from tests.worker.test_against_server import ROOT, environment, serving

pytestmark = pytest.mark.e2e

ASYNC = ("--mode", "async", "--optimizer", "sgd", "--lr", "0.1")


def plain(layers=2):
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers)))


class Tied(nn.Module):
    """An embedding that is the output layer too, as in language models, and every kind of buffer."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.emb.weight
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))
        self.register_buffer("positions", torch.arange(5))
        self.register_buffer("enabled", torch.tensor([True, False]))
        self.register_buffer("encoding", torch.randn(5, 4))

    def forward(self, tokens):
        return self.head(self.norm(self.emb(tokens) + self.encoding[tokens]))


def train(session, model, inputs, steps=2):
    for _ in range(steps):
        model(inputs).square().mean().backward()
        session.step(samples=len(inputs))


def bits(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8).tolist() if tensor.numel() else []


def same(model, values):
    return all(bits(tensor) == bits(values[name]) for name, tensor in model.state_dict().items() if name in values)


def download(url, path):
    request = urllib.request.Request(url + "/v1/params", headers={"Accept": "application/vnd.safetensors"})
    with urllib.request.urlopen(request, timeout=20) as response:
        path.write_bytes(response.read())
    return path


def test_a_wrapped_worker_and_a_plain_one_train_one_model():
    with serving(*ASYNC) as (_, url), leeway.connect(url, "w0") as first, leeway.connect(url, "w1") as second:
        wrapped, other = nn.DataParallel(plain()), plain()
        first.attach(wrapped)
        second.attach(other)
        assert same(other, wrapped.module.state_dict())
        train(first, wrapped, torch.ones(2, 3))
        second.pull()
        assert same(other, wrapped.module.state_dict())
        assert first.client.status()["groups"]["default"]["tensors"] == 4


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (1, "this one lacks 2 keys that the group has (1.weight, 1.bias)"),
        (3, "this one has 2 keys that the group lacks (2.weight, 2.bias)"),
    ],
)
def test_a_layer_fewer_or_more_is_refused_by_name_and_can_be_mended(layers, words):
    with serving(*ASYNC) as (_, url), leeway.connect(url, "w0") as first, leeway.connect(url, "w1") as second:
        first.attach(plain())
        with pytest.raises(leeway.WireError) as refused:
            second.attach(plain(layers))
        assert refused.value.code is Code.SCHEMA_CONFLICT
        assert words in str(refused.value)
        assert "group 'default'" in str(refused.value)
        second.attach(plain())


def test_a_part_of_the_model_is_compared_in_that_part_alone():
    with serving(*ASYNC) as (_, url), leeway.connect(url, "w0") as first, leeway.connect(url, "w1") as second:
        whole, part = plain(), plain(3)
        first.attach(whole)
        kept = {name: tensor.clone() for name, tensor in part.state_dict().items() if name[0] != "0"}
        second.attach(part, keys=["0.*"])
        train(second, part, torch.ones(2, 3))
        assert same(part, kept)
        first.pull()
        assert same(whole[0], part[0].state_dict())


def test_of_two_first_models_at_once_one_is_taken():
    with serving(*ASYNC) as (_, url), leeway.connect(url, "w0") as first, leeway.connect(url, "w1") as second:
        together = threading.Barrier(2)
        ends = {}

        def attach(session, layers):
            together.wait()
            try:
                session.attach(plain(layers))
                ends[layers] = "taken"
            except leeway.WireError as error:
                ends[layers] = error.code

        threads = [threading.Thread(target=attach, args=pair) for pair in ((first, 2), (second, 3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(ends.values()) == [Code.SCHEMA_CONFLICT, "taken"]
        (layers,) = [layers for layers, end in ends.items() if end == "taken"]
        assert first.client.status()["groups"]["default"]["tensors"] == 2 * layers


def test_a_layer_fewer_on_resume_is_refused(tmp_path):
    flags = (*ASYNC, "--state-dir", str(tmp_path))
    with serving(*flags) as (process, url):
        with leeway.connect(url, "w0") as session:
            model = plain()
            session.attach(model)
            train(session, model, torch.ones(2, 3))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with serving(*flags, "--resume") as (_, url), leeway.connect(url, "w0") as session:
        with pytest.raises(leeway.WireError, match=r"lacks 2 keys that the group has \(1\.weight, 1\.bias\)"):
            session.attach(plain(1))
        session.attach(plain())


def test_the_program_ends_with_one_line():
    with serving(*ASYNC) as (_, url), leeway.connect(url, "w9") as session:
        session.attach(plain())
        command = [sys.executable, "-m", "leeway.worker.train.cli", "--server", url, "--rank", "w0", "digits"]
        ended = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == 1
    said = ended.stderr + ended.stdout
    assert "schema-conflict: group 'default' holds another model: this one lacks 2 keys" in said
    assert "Traceback" not in said


class TestInitialValues:
    def test_a_download_gives_the_same_version_again(self, tmp_path):
        torch.manual_seed(3)
        tokens = torch.tensor([0, 1, 2, 3])
        with serving(*ASYNC) as (_, url), leeway.connect(url, "w0") as session:
            model = Tied()
            session.attach(model)
            model(tokens).square().mean().backward()
            session.step(samples=4)
            kinds = {spec.name: spec.kind for spec in session.client.conversation.specs}
            file = download(url, tmp_path / "model.safetensors")
        with serving(*ASYNC, "--init", str(file)) as (_, url):
            assert file.read_bytes() == download(url, tmp_path / "again.safetensors").read_bytes()
            with leeway.connect(url, "w0") as session:
                session.join()
                assert {spec.name: spec.kind for spec in session.client.conversation.specs} == kinds
                other = Tied()
                session.attach(other)
                assert session.version == 1
                assert same(other, model.state_dict())

    def test_a_file_beside_a_checkpoint_gives_nothing(self, tmp_path):
        """The same command starts the server again and again, with the file of any model."""
        plain = tmp_path / "plain.safetensors"
        torch.manual_seed(3)
        model = Tied()
        safetensors.torch.save_file({"mask": torch.zeros(3), "elsewhere.weight": torch.zeros(2)}, plain)
        flags = (*ASYNC[:2], "--state-dir", str(tmp_path / "state"), "--resume")
        with serving(*flags) as (process, url):
            with leeway.connect(url, "w0") as session:
                session.attach(model)
                train(session, model, torch.tensor([0, 1, 2, 3]))
            before = download(url, tmp_path / "before.safetensors").read_bytes()
            process.terminate()
            assert process.wait(20) == 0
        with serving(*flags, "--init", str(plain)) as (_, url):
            assert download(url, tmp_path / "after.safetensors").read_bytes() == before

    def test_a_checkpoint_gives_its_model(self, tmp_path):
        flags = (*ASYNC[:2], "--optimizer", "adam", "--state-dir", str(tmp_path))
        with serving(*flags) as (_, url), leeway.connect(url, "w0") as session:
            model = Tied()
            session.attach(model)
            train(session, model, torch.tensor([0, 1, 2, 3]))
            saved = urllib.request.Request(url + "/v1/checkpoints", method="POST")
            with urllib.request.urlopen(saved, timeout=20) as response:
                name = json.load(response)["checkpoint"]
        with serving(*ASYNC, "--init", str(tmp_path / name)) as (_, url), leeway.connect(url, "w0") as session:
            other = Tied()
            session.attach(other)
            assert session.version == 1
            assert same(other, model.state_dict())

    @pytest.mark.parametrize(
        ("first", "prefix"),
        [("emb.weight", ""), ("head.weight", "module."), ("both", "module._orig_mod."), ("head.weight", "")],
    )
    def test_a_plain_file_takes_names_and_kinds_from_the_model(self, tmp_path, first, prefix):
        model = Tied()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        left_out = {"emb.weight": "head.weight", "head.weight": "emb.weight"}.get(first)
        file = tmp_path / "plain.safetensors"
        safetensors.torch.save_file({prefix + name: t for name, t in state.items() if name != left_out}, file)
        with serving(*ASYNC, "--init", str(file)) as (_, url), leeway.connect(url, "w0") as session:
            other = Tied()
            session.attach(nn.DataParallel(other))
            assert same(other, state)
            kinds = dict.fromkeys(("mask", "encoding", "norm.running_mean"), Kind.FLOAT_BUFFER)
            kinds |= dict.fromkeys(("positions", "enabled"), Kind.INTEGER_BUFFER) | {"emb.weight": Kind.TRAINABLE}
            assert kinds.items() <= {spec.name: spec.kind for spec in session.client.conversation.specs}.items()

    def test_a_file_that_does_not_cover_the_model_is_refused_on_both_sides(self, tmp_path):
        file = tmp_path / "plain.safetensors"
        safetensors.torch.save_file(plain(2).state_dict() | {"extra": torch.zeros(1)}, file)
        said = tmp_path / "log"
        flags = (*ASYNC, "--init", str(file))
        with serving(*flags, log=said) as (_, url), leeway.connect(url, "w0") as session:
            with pytest.raises(leeway.WireError) as refused:
                session.attach(plain(3))
            assert session.client.status()
        words = "the model lacks 1 key that the file has (extra), and has 2 keys that the file lacks (2.weight, 2.bias)"
        assert refused.value.code is Code.SCHEMA_CONFLICT
        assert words in str(refused.value)
        assert words in said.read_text()

    def test_twins_with_other_values_are_refused(self, tmp_path):
        state = {name: tensor.clone() for name, tensor in Tied().state_dict().items()}
        state["head.weight"] += 1
        file = tmp_path / "untied.safetensors"
        safetensors.torch.save_file(state, file)
        other = pytest.raises(leeway.WireError, match="have other values in the file")
        with serving(*ASYNC, "--init", str(file)) as (_, url), leeway.connect(url, "w0") as session, other:
            session.attach(Tied())
