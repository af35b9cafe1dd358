import numpy as np
import pytest
from image_files import fits

from lejepa_hf.data.decoding import decode_image

pytest.importorskip("astropy")

RNG = np.random.default_rng(0)


def assert_picture(value, expected: np.ndarray, channels: int = 1, pixel_range=None):
    np.testing.assert_allclose(np.asarray(decode_image(value, channels, pixel_range)).astype(float), expected, atol=1)


def test_fits_values_are_what_the_header_makes_of_the_numbers():
    stored = RNG.integers(-32768, 32768, (6, 4), dtype=np.int16)
    stored[5, 1] = -5
    whole = (stored.astype(float) + 32768)[::-1]
    assert_picture(fits(stored, BZERO=32768, BSCALE=1), whole / 65535 * 255)
    half = np.clip((whole - 32768) / 2, 0, 1000) / 1000 * 255
    assert_picture(fits(stored, BSCALE=0.5), half, pixel_range=[0, 1000])
    blank = np.where(whole == 32763, 0, np.clip((whole - 32768 + 100) / 200, 0, 1) * 255)
    assert_picture(fits(stored, BLANK=-5), blank, pixel_range=[-100, 100])


@pytest.mark.parametrize(("planes", "channels"), [(2, 1), (3, 1), (2, 3), (4, 3)])
def test_planes_of_a_cube_are_no_colours(planes, channels):
    with pytest.raises(ValueError, match=f"The image has {planes} channels, but {channels} are expected"):
        decode_image(fits(RNG.integers(0, 9, (planes, 6, 4)).astype(">i2")), channels, [0, 9])
