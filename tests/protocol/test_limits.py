from __future__ import annotations

import sys

import msgpack

from leeway.protocol import limits


def test_a_table_of_the_largest_size_fits_the_metadata_with_short_names():
    row = ["n12345", "float32", "trainable", [256, 256, 3, 3], 2**32 - 64]
    row_values = 1 + len(row) + 1 + 4
    assert limits.MAX_TENSORS * len(msgpack.packb(row)) < limits.MAX_METADATA_BYTES
    assert limits.MAX_TENSORS * row_values < limits.MAX_METADATA_VALUES
    assert limits.MAX_TENSORS <= limits.MAX_CONTAINER_ITEMS


def test_the_recursive_check_stays_far_below_the_recursion_limit():
    assert sys.getrecursionlimit() > limits.MAX_METADATA_DEPTH * 10


def test_a_first_piece_is_the_small_one():
    assert 0 < limits.FIRST_PIECE_BYTES < limits.WRITE_CHUNK_BYTES


def test_what_headers_declare_can_exceed_every_limit():
    # Otherwise the comparison in the decoder would be dead code.
    assert limits.MAX_METADATA_BYTES < 2**32
    assert limits.DEFAULT_MAX_BODY_BYTES < limits.MAX_TENSOR_BYTES < 2**64
