"""A batch in its micro-batches."""

import pytest
import torch

from leeway.worker.pipeline.micro_batches import joined, micro_batches


def test_sizes_differ_by_one_at_most_and_samples_keep_their_order():
    pieces = micro_batches(torch.arange(11), 4, "inputs")
    assert [piece.tolist() for piece in pieces] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


def test_tensors_of_a_tuple_are_cut_alike():
    pieces = micro_batches((torch.arange(3), torch.zeros(3, 2)), 2, "inputs")
    assert [tuple(map(len, piece)) for piece in pieces] == [(2, 2), (1, 1)]


@pytest.mark.parametrize("batch", [torch.arange(11), (torch.arange(7), torch.randn(7, 2))])
def test_joined_they_are_the_batch(batch):
    again = joined(micro_batches(batch, 3, "inputs"))
    pairs = zip(batch, again, strict=True) if isinstance(batch, tuple) else [(batch, again)]
    assert type(again) is type(batch)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_list_is_taken_as_it_is():
    batch = [torch.zeros(5), torch.zeros(1)]
    assert micro_batches(batch, 2, "inputs") is batch


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.zeros(2), "inputs has 2 samples, which cannot be cut into 3 micro-batches; use at most 2 micro-batches"),
        ([torch.zeros(2)], "inputs has 1 micro-batches, and the pipeline 3; give as many, or set micro_batches"),
        ([torch.zeros(2), torch.zeros(0), torch.zeros(1)], "inputs has 0 samples"),
        ((torch.zeros(4), torch.zeros(5)), "inputs has 4 and 5 samples; all of its tensors must have as many"),
        ((), "inputs has no samples"),
        (torch.tensor(1.0), "must be a tensor whose first dimension is the samples"),
        ({"ids": torch.zeros(4)}, "must be a tensor whose first dimension"),
    ],
)
def test_what_cannot_be_cut_is_refused(batch, words):
    with pytest.raises(ValueError, match=words):
        micro_batches(batch, 3, "inputs")
