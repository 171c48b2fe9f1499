"""Which tensors travel, against `ps-serve` itself: models whose scripts do more than train them."""

import copy

import pytest
import torch
from torch import nn

import leeway
from tests.worker.test_against_server import serving

pytestmark = pytest.mark.e2e


class Momentum(nn.Module):
    """An encoder that is trained, and one whose weights follow it (MoCo)."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.query = nn.Linear(3, 2)
        self.key = copy.deepcopy(self.query).requires_grad_(False)

    @torch.no_grad()
    def follow(self):
        for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
            key.data.mul_(0.5).add_(query.data, alpha=0.5)

    def state(self):
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}


def trained(session, model, update="gradient"):
    model.query(torch.ones(4, 3)).square().mean().backward()
    if update == "delta":
        torch.optim.SGD(model.query.parameters(), lr=0.1).step()
    outcome = session.step(samples=4, update=update)
    model.follow()
    return outcome


def assert_same(found, expected, part=""):
    assert [name for name in expected if name.startswith(part) and not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(("mode", "update"), [("async", "gradient"), ("async", "delta"), ("sync", "gradient")])
def test_a_joiner_has_what_the_first_worker_has_moved(mode, update):
    with serving("--mode", mode, "--optimizer", "sgd", "--lr", "0.1") as (_, url):
        first, second, third = Momentum(1), Momentum(2), Momentum(3)
        with leeway.connect(url, "w0") as w0:
            w0.attach(first)
            initial = first.state()
            trained(w0, first, update)
            moved = first.state()
            assert not torch.equal(moved["key.weight"], initial["key.weight"])
            # What it has moved since the last step goes with this one.
            trained(w0, first, update)
        with leeway.connect(url, "w1") as w1:
            w1.attach(second)
            assert_same(second.state(), moved, "key")
            # It is the first of the live ones now, and goes on from there.
            trained(w1, second, update)
            moved = second.state()
            trained(w1, second, update)
            with leeway.connect(url, "w2") as w2:
                if mode == "async":
                    w2.attach(third)
                    assert_same(third.state(), moved, "key")
                    # It is not the first, and keeps what it moves.
                    third.key.weight.data.fill_(9)
                    trained(w2, third, update)
                    trained(w1, second, update)
                    values = w1.client.pull().frame
                    key = torch.frombuffer(bytearray(values.tensor("key.weight")), dtype=torch.float32)
                    assert not (key > 4).any()


def test_scripts_of_every_kind():
    """One server, one group for all: each is a model of its own that is attached in part, by name."""
    torch.manual_seed(0)
    with serving("--mode", "async", "--optimizer", "sgd", "--lr", "0.1") as (_, url), leeway.connect(url, "w0") as w0:
        rnn, shared = nn.LSTM(3, 4), nn.Linear(3, 3, bias=False)
        model = nn.ModuleDict({"rnn": rnn, "a": shared, "b": nn.Linear(3, 3, bias=False), "g": nn.Linear(3, 1)})
        model["b"].weight.data = shared.weight.data
        model["own"] = nn.Linear(3, 3)
        plain = copy.deepcopy({"rnn": rnn, "a": shared, "g": model["g"]})
        own = copy.deepcopy(model["own"].state_dict())
        w0.attach(model, exclude="own.*")

        def loss(net, second):
            x = torch.ones(5, 2, 3)
            return net["rnn"](x)[0].square().mean() + net["g"](second(net["a"](x))).square().mean()

        rates = torch.optim.SGD([p for part in plain.values() for p in part.parameters()], lr=0.1)
        for step in range(4):
            # A script that toggles.
            model["g"].requires_grad_(step % 2 == 0)
            plain["g"].requires_grad_(step % 2 == 0)
            rates.zero_grad()
            loss(model, model["b"]).backward()
            loss(plain, plain["a"]).backward()
            w0.step(samples=1)
            rates.step()
            for name, part in plain.items():
                for key, expected in part.state_dict().items():
                    assert torch.allclose(model[name].state_dict()[key], expected, atol=1e-6), (step, name, key)
            assert_same(model["own"].state_dict(), own)
        # What is put into it later is told, and nothing was sent: taken out again, the session goes on.
        clock = w0.clock
        model["g"].lora = nn.Linear(3, 1, bias=False)
        for call in (lambda: w0.step(samples=1), w0.skip, w0.pull):
            with pytest.raises(ValueError, match=r"g\.lora\.weight float32\[1,3\] is new"):
                call()
        del model["g"].lora
        loss(model, model["b"]).backward()
        assert w0.step(samples=1).clock == clock
        # Moved to other memory, with the same values.
        model["rnn"].load_state_dict({k: v.clone() for k, v in rnn.state_dict().items()}, assign=True)
        loss(model, model["b"]).backward()
        with torch.inference_mode():
            assert w0.step(samples=1).clock == clock + 1


def test_attach_can_be_tried_again():
    with serving("--mode", "async", "--optimizer", "sgd", "--lr", "0.1") as (_, url):
        with leeway.connect(url, "w0") as w0:
            w0.attach(nn.Linear(3, 2))
        with leeway.connect(url, "w1") as w1:
            model = nn.Linear(3, 2)
            model.register_buffer("mask", torch.zeros(1, 3).expand(2, 3))
            with pytest.raises(ValueError, match="mask is expanded"):
                w1.attach(model)
            with pytest.raises(leeway.WireError, match=r"weight float32\[9,2\]|weight float32\[2,9\]"):
                w1.attach(nn.Linear(9, 2))
            w1.barrier("between")
            w1.attach(nn.Linear(3, 2))
            with pytest.raises(ValueError, match="attached already"):
                w1.attach(nn.Linear(3, 2))
