"""One stage computes one micro-batch."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from leeway.worker.pipeline.borders import laid_out, restored
from leeway.worker.pipeline.computing import Computing
from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.schedules import SCHEDULES
from leeway.worker.pipeline.stage import build
from tests.worker.pipeline.near import Pipeline, closely, exactly

BOTH = pytest.mark.parametrize("recompute", [False, True])


def computing(modules, sizes, number, **arguments):
    return Computing(build(Layers(modules), sizes, number, 0), seed=0, rank="w0", **arguments)


class Forked(nn.Module):
    """Gives a tensor with errors, one of integers, one of bools, and one that nobody needs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, inputs):
        hidden = self.linear(inputs)
        return hidden, hidden.argmax(1), hidden > 0, hidden * 2


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, 3)

    def forward(self, given):
        hidden, ids, mask, _ = given
        return hidden * mask + self.table(ids)


class Counting(nn.Module):
    """Gives what it writes into again: a buffer, a part of one, and something of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(4))
        self.last = torch.zeros(1)

    def forward(self, inputs):
        self.seen += 1
        self.last += 1
        return self.linear(inputs), self.seen, self.seen[1:2], self.last


@BOTH
@pytest.mark.parametrize("look", [False, True])
def test_what_is_on_its_way_does_not_change(recompute, look):
    stage = computing([Counting(), nn.Linear(3, 3)], (1, 1), 0, recompute=recompute)
    given = []
    for micro_batch in range(4):
        inputs = torch.randn(2, 3)
        given.append(stage.look(micro_batch, inputs) if look else stage.forward(micro_batch, inputs, 0.25))
    assert [[float(tensor.max()) for tensor in tensors[1:]] for tensors in given] == [[n] * 3 for n in (1, 2, 3, 4)]


def test_what_was_computed_for_one_micro_batch_is_sent_from_where_it_lies():
    stage = computing([nn.Linear(3, 3), nn.Linear(3, 3)], (1, 1), 0)
    outputs = []
    stage.stage.layers[0].module.register_forward_hook(lambda _, __, output: outputs.append(output))
    assert stage.forward(0, torch.randn(2, 3), 1.0).data_ptr() == outputs[0].data_ptr()


@BOTH
def test_integers_and_bools_go_over_a_border_and_carry_no_error(recompute):
    torch.manual_seed(0)
    modules = [Forked(), Joined()]
    inputs, targets = torch.randn(6, 3), torch.randn(6, 3)
    functional.mse_loss(modules[1](modules[0](inputs)), targets).backward()
    wanted = {f"{i}.{name}": p.grad.clone() for i, m in enumerate(modules) for name, p in m.named_parameters()}
    pipeline = Pipeline(lambda: nn.Sequential(*modules), (1, 1), loss=functional.mse_loss, recompute=recompute)
    pipeline.train(SCHEDULES["1f1b"], 3, inputs, targets)
    assert closely(pipeline.gradients(), wanted)
    first, last = (
        computing(modules, (1, 1), number, recompute=recompute, loss=functional.mse_loss if number else None)
        for number in range(2)
    )
    given = first.forward(0, inputs, 1.0)
    assert not any(tensor.requires_grad for tensor in given)
    assert last.forward(0, given, 1.0, targets) is None
    assert list(last.backward(0)) == ["0"]  # the fourth took no part in the loss


@BOTH
def test_what_backward_needed_is_freed(recompute):
    stage = computing([nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)], (2, 1), 0, recompute=recompute)
    kept = []

    def keep(tensor):
        kept.append(weakref.ref(tensor))
        return tensor

    def once(micro_batch):
        output = stage.forward(micro_batch, torch.randn(2, 4), 1.0)
        assert (stage.held, stage.most_held) == (1, 1)
        assert stage.held_bytes > 0
        stage.backward(micro_batch, {"activation": torch.ones_like(output)})

    once(0)  # the first time its bytes are counted, by hooks that take the place of others
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        once(1)
    gc.collect()
    assert len(kept) > 1
    own = set(map(id, stage.stage.module.parameters()))
    assert not [tensor for one in kept if (tensor := one()) is not None and id(tensor) not in own]
    assert (stage.held, stage.held_bytes) == (0, 0)
    assert stage.most_held_bytes > 0


def test_recomputing_keeps_less():
    modules = [nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6))), nn.Linear(8, 1)]
    plain, again = (computing(modules, (1, 1), 0, recompute=recompute) for recompute in (False, True))
    for one in (plain, again):
        for micro_batch in range(4):
            one.forward(micro_batch, torch.randn(16, 8), 0.25)
    nbytes = 16 * 8 * 4
    assert plain.held_bytes == 4 * 7 * nbytes
    assert again.held_bytes == 4 * nbytes
    again.backward(0, {"activation": torch.ones(16, 8)})
    assert again.most_held_bytes == (3 + 7) * nbytes


class Drifting(nn.Module):
    """What it gives depends on a buffer that it writes, as spectral_norm's does."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("table", torch.zeros(100))

    def forward(self, inputs):
        self.steps = self.steps + 1
        return inputs * self.scale * self.steps


def test_recomputing_sees_the_buffers_as_they_were_and_leaves_them_as_they_are():
    found = []
    for recompute in (False, True):
        make = lambda: nn.Sequential(Drifting(), nn.BatchNorm1d(3), Drifting())  # noqa: E731
        pipeline = Pipeline(make, (3,), loss=lambda output, _: (output**2).mean(), recompute=recompute)
        pipeline.train(
            SCHEDULES["gpipe"], 3, torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(9)
        )
        found.append((pipeline.gradients(), pipeline.buffers()))
        assert pipeline.buffers()["0.steps"] == 3
    assert exactly(found[0][0], found[1][0])
    assert exactly(found[0][1], found[1][1])


@BOTH
def test_the_first_layer_may_write_what_it_is_given(recompute):
    make = lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))  # noqa: E731
    whole, split = (
        Pipeline(make, sizes, loss=lambda output, _: output.mean(), recompute=recompute) for sizes in ((4,), (2, 2))
    )
    for number, pipeline in enumerate((whole, split)):
        for stage in pipeline.stages:
            for parameter in stage.module.parameters():
                nn.init.constant_(parameter, 0.5)
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
        before = inputs.clone()
        pipeline.train(SCHEDULES["1f1b"], 2, inputs, torch.zeros(4), number)
        assert torch.equal(inputs, before)
    assert closely(whole.gradients(), split.gradients())


@BOTH
def test_a_frozen_stage_passes_errors_on_and_a_frozen_first_one_needs_none(recompute):
    modules = [nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)]
    modules[1].requires_grad_(False)
    pipeline = Pipeline(lambda: nn.Sequential(*modules), (1, 1, 1), loss=lambda out, _: out.mean(), recompute=recompute)
    pipeline.train(SCHEDULES["1f1b"], 2, torch.randn(4, 3), torch.zeros(4))
    assert {name for name, gradient in pipeline.gradients().items() if gradient is not None} == {
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    }
    modules[0].requires_grad_(False)
    pipeline.train(SCHEDULES["1f1b"], 2, torch.randn(4, 3), torch.zeros(4))
    assert pipeline.gradients()["0.weight"] is None


class Gives(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.give = give

    def forward(self, inputs):
        return self.give(self.linear(inputs))


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda x: {"hidden": x}, "layer 0 gives a dict; where the model is cut, a layer must give a tensor or a flat"),
        (lambda x: (x, (x, x)), "layer 0 gives a tuple with a tuple"),
        (lambda x: (x, None), "layer 0 gives a tuple with a NoneType"),
        (lambda x: (), "layer 0 gives an empty tuple"),
        (lambda x: x.to(torch.complex64), "layer 0 gives complex64; what is handed over is dense, and float32"),
        (lambda x: x.to_sparse(), "layer 0 gives sparse_coo"),
    ],
)
def test_outputs_that_cannot_be_handed_over_are_refused(give, words):
    with pytest.raises(ValueError, match=words):
        computing([Gives(give), nn.Linear(3, 1)], (1, 1), 0).forward(0, torch.randn(2, 3), 1.0)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda out, _: out, r"the loss is a tensor of shape \[2, 1\]; it must be a scalar, the mean"),
        (lambda out, _: out.mean(0), r"the loss is a tensor of shape \[1\]"),
        (lambda out, _: 1.0, "the loss is float"),
        (None, "the last stage needs a loss"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(loss, words):
    with pytest.raises(ValueError, match=words):
        computing([nn.Linear(3, 1)], (1,), 0, loss=loss).forward(0, torch.randn(2, 3), 1.0, torch.zeros(2))


def test_a_loss_that_depends_on_nothing_is_refused():
    stage = computing([nn.Linear(3, 1)], (1,), 0, loss=lambda out, _: out.detach().mean())
    stage.forward(0, torch.randn(2, 3), 1.0, torch.zeros(2))
    with pytest.raises(ValueError, match="the loss depends on no parameter"):
        stage.backward(0)


def test_what_a_dropped_iteration_has_left_is_forgotten():
    stage = computing([nn.Linear(3, 3), nn.Linear(3, 1)], (1, 1), 0)
    stage.forward(0, torch.randn(2, 3), 1.0)
    stage.begin(1)
    assert (stage.held, stage.held_bytes, stage.most_held) == (0, 0, 0)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).view(2, 3, 4),
        torch.arange(24.0).view(2, 3, 4).transpose(0, 1),
        torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.arange(24.0).view(2, 3, 4)[:, :, 1:3].transpose(0, 2),
        torch.arange(3.0).expand(2, 3),
        torch.tensor(1.0),
    ],
)
def test_over_a_border_dimensions_lie_in_the_order_in_which_they_lay(tensor):
    for activations in (tensor, (tensor, torch.ones(2))):
        sent = {name: one.clone(memory_format=torch.contiguous_format) for name, one in laid_out(activations).items()}
        back = restored(sent)
        assert isinstance(back, tuple) == isinstance(activations, tuple)
        found = back[0] if isinstance(back, tuple) else back
        assert torch.equal(found, tensor)
        # Dropout's mask has the strides of what preserves them.
        assert torch.empty_like(found).stride() == torch.empty_like(tensor).stride()
