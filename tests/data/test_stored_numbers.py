"""A range means the numbers in the file, also where PIL scales, shifts or inverts them."""

import io

import numpy as np
import pytest
from image_files import png, tiff
from PIL import Image, features

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
from lejepa_hf.data.file_values import values_in_file

RNG = np.random.default_rng(0)
MINISWHITE, NO_DATA = {262: 0}, 42113


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255


def assert_picture(value, picture: np.ndarray, pixel_range=None, channels: int = 1):
    found = np.asarray(decode_image(value, channels, pixel_range)).astype(float)
    np.testing.assert_allclose(found, picture, atol=1)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("is_inverted", [False, True])
def test_grey_tiffs_of_few_bits_and_inverted_ones(bits, is_inverted):
    white = 2**bits - 1
    values = RNG.integers(0, white + 1, (6, 8), dtype=np.uint8)
    values[0, :2] = 0, white
    tags = MINISWHITE if is_inverted else {}
    file = tiff(values, bits=None if bits == 8 else bits, tags=tags)
    inside = (1, white - 1) if bits < 8 else (40, 200)
    for low, high in ((0, white), inside):
        picture = expected(values, low, high)
        assert_picture(file, 255 - picture if is_inverted else picture, [low, high])
    whole = 255 - expected(values, 0, white) if is_inverted else expected(values, 0, white)
    assert_picture(file, whole)
    assert_picture(file, whole, [0, 4000])  # of other images in the folder
    found = values_in_file(file).values
    assert (found.array == values).all() and found.pixel_range == (None if bits == 8 else [0, white])
    missing = tiff(values, bits=None if bits == 8 else bits, tags=tags | {NO_DATA: b"1\0"})
    assert_picture(missing, np.where(values == 1, 0, whole))
    assert (values_in_file(missing).values.is_known == (values != 1)).all()


def test_pages_of_tiffs_of_few_bits_are_channels():
    pages = [RNG.integers(0, 16, (6, 8), dtype=np.uint8) for _ in range(3)]
    buffer = io.BytesIO()
    first, *others = (Image.open(io.BytesIO(tiff(page, tags=MINISWHITE))) for page in pages)
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    stored = np.dstack([255 - page for page in pages])  # PIL has inverted them
    assert_picture(buffer.getvalue(), expected(stored, 240, 250), [240, 250], 3)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_pngs_of_few_bits(bits):
    white = 2**bits - 1
    values = RNG.integers(0, white + 1, (6, 8), dtype=np.uint8)
    file = png(values, bits=bits)
    assert_picture(file, expected(values, 0, white))
    assert_picture(file, expected(values, 1, white - 1), [1, white - 1])
    assert_picture(file, expected(values, 0, white), [0, 200])
    assert_picture(Image.open(io.BytesIO(file)), expected(values, 1, white - 1), [1, white - 1])
    assert (values_in_file(file).values.array == values).all()


def test_black_and_white_has_no_range():
    values = RNG.integers(0, 2, (6, 8), dtype=np.uint8)
    for file in (png(values, bits=1), tiff(values, bits=1)):
        for pixel_range in (None, [0, 200], [0, 1]):
            assert_picture(file, 255.0 * values, pixel_range)


@pytest.mark.parametrize(("white", "kind"), [(15, "u1"), (100, "u1"), (1023, ">u2"), (4095, ">u2")])
@pytest.mark.parametrize("bands", [1, 3])
def test_pnm_up_to_another_white(white, kind, bands):
    values = RNG.integers(0, white + 1, (6, 8, bands), dtype=np.uint16).squeeze()
    file = f"P{5 if bands == 1 else 6} 8 6 {white}\n".encode() + values.astype(kind).tobytes()
    assert_picture(file, expected(values, 0, white), None, bands)
    if bands == 3 and white > 255:
        with pytest.raises(DECODING_ERRORS, match="`pixel_range` needs .* PIL scales those of this PPM"):
            decode_image(file, 3, [5.0, 0.7 * white])
        return
    assert_picture(file, expected(values, 5, 0.7 * white), [5, 0.7 * white], bands)
    found = values_in_file(file, bands).values
    assert (found.array == values).all() and found.pixel_range == [0, white]


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_jpeg_2000_of_few_bits(bits, bands):
    codecs = pytest.importorskip("imagecodecs", reason="it writes such files; PIL reads them")
    white = 2**bits - 1
    values = RNG.integers(0, white + 1, (64, 64, bands), dtype=np.uint8)
    file = codecs.jpeg2k_encode(values.squeeze(), level=0, bitspersample=bits, reversible=True)
    colours = values[..., :-1] if bands in (2, 4) else values
    channels = colours.shape[-1]
    assert_picture(file, expected(colours, 0, white).squeeze(), None, channels)
    assert_picture(file, expected(colours, 0, white).squeeze(), [0, 4000], channels)
    if bits > 2:
        assert_picture(file, expected(colours, 1, white - 2).squeeze(), [1, white - 2], channels)
    if bands == 4:
        assert_picture(file, expected(values, 0, white), None, 4)


@pytest.mark.parametrize("container", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize("is_signed", [False, True])
def test_grey_jpeg_2000_of_more_bits(container, bits, is_signed):
    codecs = pytest.importorskip("imagecodecs")
    low, white = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    values = RNG.integers(low, white + 1, (64, 64)).astype("i2" if is_signed else "u2")
    values[0, :2] = low, white
    file = codecs.jpeg2k_encode(values, level=0, bitspersample=bits, codecformat=container, reversible=True)
    assert_picture(file, expected(values, low, white))
    assert_picture(file, expected(values, 100, 200), [100, 200])
    found = values_in_file(file).values
    assert (found.array == values).all()
    assert found.pixel_range == ([low, white] if bits < 16 or is_signed else None)
    loaded = Image.open(io.BytesIO(file))
    if bits > 9 or container == "j2k":  # as what PIL opens is read too
        assert_picture(loaded, expected(values, 100, 200), [100, 200])


def test_files_without_anything_to_say():
    if not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    picture = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for kind in ("PNG", "TIFF", "PPM", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, kind)
        found = values_in_file(buffer.getvalue()).values
        assert (found.array == picture).all() and found.pixel_range is None and found.is_known.all()
