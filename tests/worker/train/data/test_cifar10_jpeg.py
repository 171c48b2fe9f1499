import numpy as np
import pytest
from scipy.fft import idctn

from leeway.worker.train.data import cifar10_jpeg

NO_INDEX, NO_VALUE = np.zeros((0, 3), np.int32), np.zeros(0, np.int16)
RNG = np.random.default_rng(0)


def coefficients(images=1):
    return np.zeros((64, cifar10_jpeg.BLOCKS, images), np.int8)


def test_luma_agrees_with_a_floating_point_inverse_dct_to_one_level():
    quantised = coefficients(images=5)
    quantised[:10] = RNG.integers(-3, 4, (10, 24, 5))
    quantised[:, [4, 5, 10, 11, 16, 17, 22, 23]] = 0
    pixels = cifar10_jpeg.decode(quantised, NO_INDEX, NO_VALUE)
    assert (pixels == pixels[..., :1]).all(), "no chroma, no colour"
    for macroblock in range(4):
        for quarter in range(4):
            top = 16 * (macroblock // 2) + 8 * (quarter // 2)
            left = 16 * (macroblock % 2) + 8 * (quarter % 2)
            block = quantised[:, 6 * macroblock + quarter].reshape(8, 8, 5)
            block = block * cifar10_jpeg._LUMA_STEPS[..., None]
            exact = np.clip(idctn(block.astype(float), axes=(0, 1), norm="ortho") + 128, 0, 255)
            got = pixels[:, top : top + 8, left : left + 8, 0].transpose(1, 2, 0)
            assert np.abs(got - exact).max() <= 1


@pytest.mark.parametrize(
    ("block", "level", "rgb"),
    # JFIF: R = Y + 1.402 Cr, G = Y - 0.34414 Cb - 0.71414 Cr, B = Y + 1.772 Cb.
    # A mean coefficient of 32 steps of 9 is 32 * 9 / 8 = 36 levels of chroma.
    [(4, 32, (128, 116, 192)), (5, 32, (178, 102, 128)), (4, -32, (128, 140, 64))],
)
def test_chroma_colours_as_jfif_says(block, level, rgb):
    quantised = coefficients()
    quantised[0, block::6] = level
    pixels = cifar10_jpeg.decode(quantised, NO_INDEX, NO_VALUE)
    assert (pixels == np.array(rgb)).all()


def test_chroma_is_interpolated_between_macroblocks():
    quantised = coefficients()
    quantised[0, [4, 16]] = 32  # blue on the left half, nothing on the right
    blue = cifar10_jpeg.decode(quantised, NO_INDEX, NO_VALUE)[0, 10, 14:18, 2].tolist()
    assert blue == [192, 176, 144, 128]


def test_outliers_take_the_place_of_their_coefficients_in_any_chunk(monkeypatch):
    monkeypatch.setattr(cifar10_jpeg, "_CHUNK_IMAGES", 2)
    quantised = coefficients(images=5)
    index = np.array([[0, 0, 3], [0, 0, 4]], np.int32)
    pixels = cifar10_jpeg.decode(quantised, index, np.array([127, -128], np.int16))
    assert (pixels[:3] == 128).all()
    assert (pixels[3, :8, :8] == 255).all()
    assert (pixels[4, :8, :8] == 0).all()
    assert (pixels[3:, 8:] == 128).all()
