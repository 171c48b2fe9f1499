"""How much more than its rows a sparse gradient is, when it travels dense."""

import pytest
import torch
from torch import nn

from leeway.worker.modules.sparse import excess


def gradient(*rows, sparse=True):
    table = nn.Embedding(12, 3, sparse=sparse)
    table(torch.tensor(rows, dtype=torch.int64)).sum().backward()
    return table.weight.grad


@pytest.mark.parametrize(
    ("gradients", "times"),
    [
        ([gradient(4)], 12.0),
        ([gradient(4, 4, 4)], 12.0),
        ([gradient(4, 5, 6)], 4.0),
        ([gradient(4), gradient(5)], 6.0),
        ([gradient(4), gradient(4)], 12.0),
        ([gradient(*range(12))], None),
        ([gradient()], None),
        ([gradient(4, sparse=False)], None),
        ([gradient(4), gradient(4, sparse=False)], None),
    ],
)
def test_is_all_rows_over_those_touched(gradients, times):
    assert excess(gradients) == times


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_another_sparse_layout():
    assert excess([gradient(4).to_dense().to_sparse_csr()]) == 12.0
