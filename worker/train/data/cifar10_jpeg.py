"""From quantised DCT coefficients to pixels, as a JPEG decoder does it, for 32 x 32 images with 4:2:0 chroma.

The one rule: integer arithmetic throughout, in libjpeg's order and rounding, so that the pixels equal those
that libjpeg gives for the same files, byte for byte, on every machine.

Sources: ITU-T T.81 (JPEG), annexes A.3.3 and K.1; libjpeg's `jidctint.c` (the "islow" inverse DCT of
Loeffler, Ligtenberg and Moschytz, ICASSP 1989, in 13-bit fixed point), `jdsample.c` (h2v2 "fancy"
upsampling), `jdcolor.c` (YCbCr to RGB).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = NDArray[np.int32]

# Four macroblocks of 16 x 16 pixels, in reading order; in each, four blocks of luma (reading order), one Cb,
# one Cr.
_MACROBLOCKS = 4
_BLOCKS_PER_MACROBLOCK = 6
BLOCKS = _MACROBLOCKS * _BLOCKS_PER_MACROBLOCK

# Images are decoded this many at a time: the int32 planes then stay near 30 MB.
_CHUNK_IMAGES = 2_000

# The quantisation tables of quality 75 (half of T.81's tables K.1 and K.2, rounded up), row by row.
_LUMA_STEPS = np.array(
    [
        [8, 6, 5, 8, 12, 20, 26, 31],
        [6, 6, 7, 10, 13, 29, 30, 28],
        [7, 7, 8, 12, 20, 29, 35, 28],
        [7, 9, 11, 15, 26, 44, 40, 31],
        [9, 11, 19, 28, 34, 55, 52, 39],
        [12, 18, 28, 32, 41, 52, 57, 46],
        [25, 32, 39, 44, 52, 61, 60, 51],
        [36, 46, 48, 49, 56, 50, 52, 50],
    ],
    dtype=np.int32,
)
_CHROMA_STEPS = np.full((8, 8), 50, dtype=np.int32)
_CHROMA_STEPS[:4, :4] = [[9, 9, 12, 24], [9, 11, 13, 33], [12, 13, 28, 50], [24, 33, 50, 50]]

# The DCT's constants in 13-bit fixed point: round(x * 2**13). Named as in jidctint.c.
_FIXED_BITS = 13
_FIX_0_298631336 = 2446
_FIX_0_390180644 = 3196
_FIX_0_541196100 = 4433
_FIX_0_765366865 = 6270
_FIX_0_899976223 = 7373
_FIX_1_175875602 = 9633
_FIX_1_501321110 = 12299
_FIX_1_847759065 = 15137
_FIX_1_961570560 = 16069
_FIX_2_053119869 = 16819
_FIX_2_562915447 = 20995
_FIX_3_072711026 = 25172
# The first pass keeps two extra bits; the second drops them again, and the 8 of the transform's scale.
_COLUMN_SHIFT = _FIXED_BITS - 2
_ROW_SHIFT = _FIXED_BITS + 2 + 3


def decode(
    coefficients: NDArray[np.int8], outlier_index: Integers, outlier_value: NDArray[np.int16]
) -> NDArray[np.uint8]:
    """Return RGB images, uint8 (n, 32, 32, 3).

    Args:
        coefficients: int8 (64, 24, n), quantised, in natural (not zigzag) order; the 24 blocks of an image
            lie by macroblock, each Y00 Y01 Y10 Y11 Cb Cr.
        outlier_index: int32 (k, 3), the places in `coefficients` whose values do not fit int8.
        outlier_value: int16 (k,), those values.
    """
    images = coefficients.shape[2]
    pixels = np.empty((images, 32, 32, 3), dtype=np.uint8)
    for start in range(0, images, _CHUNK_IMAGES):
        stop = min(start + _CHUNK_IMAGES, images)
        chunk = coefficients[:, :, start:stop].astype(np.int32)
        inside = (outlier_index[:, 2] >= start) & (outlier_index[:, 2] < stop)
        place, block, image = outlier_index[inside].T
        chunk[place, block, image - start] = outlier_value[inside]
        pixels[start:stop] = _decode_chunk(chunk)
    return pixels


def _decode_chunk(coefficients: Integers) -> NDArray[np.uint8]:
    images = coefficients.shape[2]
    luma = np.empty((32, 32, images), dtype=np.int32)
    blue, red = np.empty((2, 16, 16, images), dtype=np.int32)
    for macroblock in range(_MACROBLOCKS):
        row, column = divmod(macroblock, 2)
        blocks = coefficients[:, _BLOCKS_PER_MACROBLOCK * macroblock :][:, :_BLOCKS_PER_MACROBLOCK]
        for quarter in range(4):
            top, left = 16 * row + 8 * (quarter // 2), 16 * column + 8 * (quarter % 2)
            luma[top : top + 8, left : left + 8] = _samples(blocks[:, quarter], _LUMA_STEPS)
        place = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        blue[place] = _samples(blocks[:, 4], _CHROMA_STEPS)
        red[place] = _samples(blocks[:, 5], _CHROMA_STEPS)
    return _to_rgb(luma, _upsample(blue) - 128, _upsample(red) - 128)


def _samples(block: Integers, steps: Integers) -> Integers:
    """Quantised coefficients (64, n) -> samples 0 to 255, (8, 8, n)."""
    frequencies = block.reshape(8, 8, -1) * steps[:, :, None]
    columns = np.stack(_inverse_dct(list(frequencies), _COLUMN_SHIFT))
    rows = np.stack(_inverse_dct([columns[:, k] for k in range(8)], _ROW_SHIFT), axis=1)
    return np.clip(rows + 128, 0, 255)


def _inverse_dct(inputs: Sequence[Integers], shift: int) -> list[Integers]:
    """One pass of the eight-point inverse DCT, elementwise over eight arrays; rounds `shift` bits away."""
    i0, i1, i2, i3, i4, i5, i6, i7 = inputs

    z1 = (i2 + i6) * _FIX_0_541196100
    even2 = z1 - i6 * _FIX_1_847759065
    even3 = z1 + i2 * _FIX_0_765366865
    even0 = (i0 + i4) << _FIXED_BITS
    even1 = (i0 - i4) << _FIXED_BITS
    e0, e1, e2, e3 = even0 + even3, even1 + even2, even1 - even2, even0 - even3

    z5 = (i7 + i3 + i5 + i1) * _FIX_1_175875602
    z1, z2 = (i7 + i1) * -_FIX_0_899976223, (i5 + i3) * -_FIX_2_562915447
    z3, z4 = (i7 + i3) * -_FIX_1_961570560 + z5, (i5 + i1) * -_FIX_0_390180644 + z5
    o0 = i1 * _FIX_1_501321110 + z1 + z4
    o1 = i3 * _FIX_3_072711026 + z2 + z3
    o2 = i5 * _FIX_2_053119869 + z2 + z4
    o3 = i7 * _FIX_0_298631336 + z1 + z3

    half = 1 << (shift - 1)
    sums = (e0 + o0, e1 + o1, e2 + o2, e3 + o3, e3 - o3, e2 - o2, e1 - o1, e0 - o0)
    return [(value + half) >> shift for value in sums]


def _upsample(plane: Integers) -> Integers:
    """(16, 16, n) -> (32, 32, n): 3/4 of the nearer and 1/4 of the farther neighbour, down and across."""
    above, below = np.concatenate([plane[:1], plane[:-1]]), np.concatenate([plane[1:], plane[-1:]])
    tall = np.empty((32, *plane.shape[1:]), dtype=np.int32)
    tall[0::2], tall[1::2] = 3 * plane + above, 3 * plane + below
    left, right = (
        np.concatenate([tall[:, :1], tall[:, :-1]], axis=1),
        np.concatenate([tall[:, 1:], tall[:, -1:]], axis=1),
    )
    wide = np.empty((32, 32, plane.shape[2]), dtype=np.int32)
    # 8 and 7: libjpeg alternates the rounding so that it does not brighten the picture.
    wide[:, 0::2], wide[:, 1::2] = (3 * tall + left + 8) >> 4, (3 * tall + right + 7) >> 4
    return wide


def _to_rgb(luma: Integers, blue: Integers, red: Integers) -> NDArray[np.uint8]:
    """Planes (32, 32, n), chroma about 0 -> uint8 (n, 32, 32, 3): JFIF's matrix in 16-bit fixed point."""
    half = 1 << 15
    channels = (
        luma + ((91881 * red + half) >> 16),
        luma + ((-22554 * blue - 46802 * red + half) >> 16),
        luma + ((116130 * blue + half) >> 16),
    )
    pixels = np.empty((luma.shape[2], 32, 32, 3), dtype=np.uint8)
    for channel, plane in enumerate(channels):
        pixels[..., channel] = np.clip(plane, 0, 255).transpose(2, 0, 1)
    return pixels
