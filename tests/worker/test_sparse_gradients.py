"""Sparse gradients: sent dense, and told once with their size."""

import pytest
import torch
from torch import nn

from leeway.worker.torch_bridge import ModelBridge
from tests.worker.bridged import received, served, tensor_of


def test_sparse_gradients_are_sent_dense():
    model = nn.Embedding(4, 2, sparse=True)
    bridge = ModelBridge(model)
    model(torch.tensor([1])).sum().backward()
    assert model.weight.grad.is_sparse
    expected = torch.zeros(4, 2)
    expected[1] = 1.0
    with pytest.warns(UserWarning, match="sparse"):
        assert torch.equal(tensor_of(received(bridge.gradients()), "weight"), expected)


@pytest.fixture
def tables():
    """Two tables that give sparse gradients, and a dense layer."""
    model = nn.ModuleDict({"words": nn.Embedding(6250, 4, sparse=True), "users": nn.Embedding(5, 2, sparse=True)})
    model["out"] = nn.Linear(4, 1)
    return model


def test_sparse_gradients_are_told_once_with_name_and_size(tables):
    bridge = ModelBridge(tables)
    tables["out"](tables["words"](torch.tensor([7, 7, 9]))).sum().backward()
    with pytest.warns(UserWarning, match="sparse gradients are sent dense") as warned:
        bridge.gradients()
    (warning,) = warned
    assert "with every row: words.weight (3,125 times the rows touched). The result is the same" in str(warning.message)
    assert warning.filename == __file__
    tables["words"](torch.tensor([1])).sum().backward()
    bridge.gradients()
    tables["users"](torch.tensor([0, 3])).sum().backward()
    with pytest.warns(UserWarning, match=r"with every row: users.weight \(2.5 times the rows touched\). The"):
        bridge.gradients()


def test_sparse_gradients_of_a_step_that_is_pushed_as_delta_are_told_too(tables):
    bridge = ModelBridge(tables)
    bridge.load(served(bridge))
    optimizer = torch.optim.SparseAdam(tables["words"].parameters())
    tables["words"](torch.tensor([0, 1])).sum().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"words.weight \(3,125 times"):
        frame = received(bridge.deltas())
    assert tensor_of(frame, "words.weight").ne(0).any(1).nonzero().flatten().tolist() == [0, 1]
    bridge.weights()


def test_rows_that_are_all_touched_are_nothing_to_tell(tables):
    bridge = ModelBridge(tables)
    tables["users"](torch.arange(5)).sum().backward()
    bridge.gradients()
