"""Keys of a group: their difference in words, and their sizes, which are never below what a file or a frame has."""

import json

import msgpack
import pytest

from leeway.protocol import limits
from leeway.protocol.capacity import Capacity
from leeway.protocol.frames import encode
from leeway.protocol.membership import GroupState, Joined
from leeway.protocol.metadata import pack
from leeway.protocol.schema import CHECKPOINT_BYTES, JOIN_BYTES, MESSAGE_BYTES, MESSAGE_VALUES, Difference, Sizes
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec


def spec(name, shape=(3,), dtype="float32", kind=Kind.TRAINABLE):
    return TensorSpec(name, shape, dtype, kind)


SETS = {
    "short": [spec("w"), spec("b", ())],
    "many dimensions": [spec(f"k{n}", (1,) * 16) for n in range(50)],
    "names to be escaped": [spec(name) for name in ('"', "\\", "\\\\\"'", "é" * 100, "\U0001d54f" * 512, "a b")],
    "buffers": [
        spec("n", (2**40, 0), "int64", Kind.INTEGER_BUFFER),
        spec("m" * 512, (7,), "float64", Kind.FLOAT_BUFFER),
    ],
}


class TestDifference:
    def test_none(self):
        assert not Difference.between(["w", "b"], ["b", "w"])
        assert Difference.between(["w"], ["w", "b"])
        assert Difference.between(["w", "b"], ["w"])

    @pytest.mark.parametrize(
        ("there", "declared", "words"),
        [
            ("ab", "a", "this one lacks 1 key that the group has (b)"),
            ("a", "abc", "this one has 2 keys that the group lacks (b, c)"),
            ("ab", "bc", "this one lacks 1 key that the group has (a), and has 1 key that the group lacks (c)"),
            ("abcdefg", "a", "this one lacks 6 keys that the group has (b, c, d, e and 2 more)"),
        ],
    )
    def test_in_words(self, there, declared, words):
        assert Difference.between(there, declared).in_words("this one", "the group") == words

    def test_facts_are_few(self):
        difference = Difference.between([f"a{n}" for n in range(9)], ["b"])
        assert len(difference) == 10
        assert difference.to_facts() == {
            "missing": ["a0", "a1", "a2", "a3"],
            "missing_count": 9,
            "extra": ["b"],
            "extra_count": 1,
        }


class TestSizes:
    @pytest.mark.parametrize("specs", SETS.values(), ids=SETS)
    def test_are_bounds_from_above_and_not_far_from_it(self, specs):
        sizes, layout = Sizes.of(specs), Layout.of(specs)
        assert (sizes.tensors, sizes.body_bytes) == (len(specs), layout.nbytes)
        metadata = len(pack({}, layout))
        # An offset takes up to nine bytes.
        assert metadata - 16 <= sizes.metadata_bytes <= metadata + 9 * len(specs)
        joined = Joined(1, 1, False, 10.0, 0, 1, {"default": GroupState(0, "async", specs=tuple(specs))})
        in_json = len(json.dumps(joined.to_fields()))
        assert in_json - 1000 <= sizes.json_bytes <= in_json

    @pytest.mark.parametrize("edge", [0, 31, 32, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**60])
    def test_a_row_is_as_long_as_msgpack_makes_it(self, edge):
        for one in (spec("n" * min(max(edge, 1), 512), ()), spec("n", (edge, 0)), spec("n", (0,) * min(edge, 16))):
            assert Sizes.of([one]).metadata_bytes == len(msgpack.packb([*one.to_row(), 2**40]))

    def test_add_up(self):
        one, other = Sizes.of(SETS["short"]), Sizes.of(SETS["buffers"])
        assert one + other == Sizes.of([*SETS["short"], *SETS["buffers"]])
        assert one + Sizes() == one

    def test_a_longer_name_of_the_group_takes_more_of_a_checkpoint(self):
        assert Sizes.of(SETS["short"], "g" * 64).header_bytes > Sizes.of(SETS["short"], "g").header_bytes

    @pytest.mark.parametrize(
        ("largest", "words"),
        [
            ({"tensors": limits.MAX_TENSORS}, "65537 tensors; the limit is 65536"),
            ({"body_bytes": 4096}, "4097 bytes in one body (--max-body); the limit is 4096"),
            ({"metadata_bytes": limits.MAX_METADATA_BYTES - MESSAGE_BYTES}, "bytes of metadata"),
            ({"metadata_values": limits.MAX_METADATA_VALUES - MESSAGE_VALUES}, "values of metadata"),
        ],
    )
    def test_a_group_at_its_limit_is_taken_and_one_above_is_not(self, largest, words):
        capacity = Capacity(max_body_bytes=4096)
        assert Sizes(**largest).excess(capacity) is None
        assert words in (Sizes(**{name: size + 1 for name, size in largest.items()}).excess(capacity) or "")

    @pytest.mark.parametrize(
        ("largest", "words"),
        [
            ({"json_bytes": 2**20 - JOIN_BYTES}, "in a join reply"),
            ({"header_bytes": limits.MAX_SAFETENSORS_HEADER_BYTES - CHECKPOINT_BYTES}, "header of a checkpoint"),
        ],
    )
    def test_so_is_a_server_with_all_its_groups(self, largest, words):
        capacity = Capacity(max_schema_bytes=2**20)
        assert Sizes(**largest).excess_together(capacity) is None
        assert words in (Sizes(**{name: size + 1 for name, size in largest.items()}).excess_together(capacity) or "")

    def test_what_the_decoder_counts_is_counted(self):
        from leeway.protocol.decoder import decode

        # As many dimensions as one frame may have, and no more: the decoder agrees with the sum.
        each = Sizes.of([spec("k", (1,) * 16)]).metadata_values
        count = (limits.MAX_METADATA_VALUES - MESSAGE_VALUES) // each
        specs = [spec(f"{n:x}", (0,) * 16) for n in range(count)]
        assert Sizes.of(specs).excess(Capacity()) is None
        assert Sizes.of([*specs, spec("z", (0,) * 16)]).excess(Capacity())
        frame = decode(b"".join(bytes(part) for part in encode({}, Layout.of(specs))))
        assert len(frame.places) == count
