"""Colours of 9 to 16 bits in JPEG 2000, AVIF and HEIC, which imagecodecs and pillow-heif write."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image, open_image
from lejepa_hf.data.file_values import values_in_file

codecs = pytest.importorskip("imagecodecs")
heif = pytest.importorskip("pillow_heif")

RNG = np.random.default_rng(0)
BITS = (9, 10, 12, 14, 16)


def values_of(bits: int, *shape: int) -> np.ndarray:
    """All values of so many bits, black and white among them."""
    values = RNG.integers(0, 2**bits, (64, 64, *shape), dtype=np.uint16)
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    return values


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255


def jpeg_2000(values: np.ndarray, bits: int, container: str = "jp2") -> bytes:
    return codecs.jpeg2k_encode(values, level=0, bitspersample=bits, codecformat=container, reversible=True)


def avif(values: np.ndarray, bits: int) -> bytes:
    layout = "444" if values.ndim == 3 else "400"
    return codecs.avif_encode(values, level=100, bitspersample=bits, pixelformat=layout, speed=9)


def heic(values: np.ndarray, bits: int) -> bytes:
    channels = values.shape[2] if values.ndim == 3 else 1
    mode = {1: "L;16", 3: "RGB;16", 4: "RGBA;16"}[channels]
    buffer = io.BytesIO()
    before, heif.options.SAVE_HDR_TO_12_BIT = heif.options.SAVE_HDR_TO_12_BIT, bits == 12
    try:
        image = heif.from_bytes(mode, (values.shape[1], values.shape[0]), (values << (16 - bits)).tobytes())
        image.save(buffer, quality=-1, chroma=444)
    finally:
        heif.options.SAVE_HDR_TO_12_BIT = before
    return buffer.getvalue()


def assert_picture(value, picture: np.ndarray, channels: int, pixel_range=None):
    found = np.asarray(decode_image(value, channels, pixel_range)).astype(float)
    np.testing.assert_allclose(found, picture, atol=1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("container", ["jp2", "j2k"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_jpeg_2000(bits, container, bands, tmp_path):
    """PIL turns white into black in these."""
    values, white = values_of(bits, bands), 2**bits - 1
    (tmp_path / "a.jp2").write_bytes(jpeg_2000(values.squeeze(), bits, container))
    colours = values[..., : 1 if bands < 3 else 3]
    channels = colours.shape[-1]
    for value in (str(tmp_path / "a.jp2"), (tmp_path / "a.jp2").read_bytes()):
        assert_picture(value, expected(colours, 0, white).squeeze(), channels)
        assert_picture(value, expected(colours, 90, 300).squeeze(), channels, [90, 300])
    found = values_in_file(tmp_path / "a.jp2").values
    assert (found.array.squeeze() == values.squeeze()).all() and found.pixel_range == (
        None if bits == 16 else [0, white]
    )
    assert (found.array[found.is_known] == colours.reshape(-1)).all()
    if bands == 4:
        both = np.dstack([expected(colours, 90, 300), expected(values[..., 3], 0, white)])
        assert_picture(tmp_path / "a.jp2", both, 4, [90, 300])


def test_values_of_jpeg_2000_with_a_sign():
    values = values_of(12, 3).astype(np.int16) - 2048
    file = jpeg_2000(values, 12)
    assert_picture(file, expected(values, -2048, 2047), 3)
    assert_picture(file, expected(values, -100, 900), 3, [-100, 900])


def test_a_jpeg_2000_that_the_caller_opened_is_refused():
    file = jpeg_2000(values_of(10, 3), 10)
    for pixel_range in (None, [0, 900]):
        with pytest.raises(
            DECODING_ERRORS, match="PIL misreads the bits of this JPEG 2000: give the path or the bytes"
        ):
            decode_image(Image.open(io.BytesIO(file)), 3, pixel_range)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("shape", [(), (3,), (4,)], ids=["grey", "colours", "transparency"])
@pytest.mark.parametrize("write", [avif, heic])
def test_photographs_of_more_than_eight_bits(write, shape, bits, tmp_path):
    if write is avif and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    values, white = np.zeros((64, 64, *shape), np.uint16), 2**bits - 1
    values[...] = (np.arange(64 * 64).reshape(64, 64) * white // 4095).reshape(64, 64, *(1 for _ in shape))
    (tmp_path / "a").write_bytes(write(values, bits))
    colours, channels = (values, 1) if shape == () else (values[..., :3], 3)
    for value in (str(tmp_path / "a"), (tmp_path / "a").read_bytes()):
        assert_picture(value, expected(colours, 0, white), channels)
        for low, high in ((0, white), (50, 200), (90, 0.7 * white)):
            assert_picture(value, expected(colours, low, high), channels, [low, high])
    if shape == (4,):
        both = np.dstack([expected(colours, 90, 700), expected(values[..., 3], 0, white)])
        assert_picture(value, both, 4, [90, 700])
    found = values_in_file(tmp_path / "a").values
    assert found.pixel_range == [0, white] and (found.array[found.is_known] == colours.reshape(-1)).all()
    opened = Image.open(io.BytesIO(value))
    with pytest.raises(DECODING_ERRORS, match="`pixel_range` needs .* PIL scales those of this (AVIF|HEIF)"):
        decode_image(opened, channels, [0, 900])


def test_turned_avifs_are_upright_as_with_pil():
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    from lejepa_hf.data.readers.deep_colours import colour_values

    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    stripes = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[:, None], 32, 1)
    Image.fromarray(stripes).save(buffer, "AVIF", quality=100, exif=exif)
    file = buffer.getvalue()
    turned = colour_values(file, open_image(file)).array
    upright = np.asarray(decode_image(file, 1))
    assert upright.shape == (32, 64) and turned.shape[:2] == (32, 64)
    assert abs(turned.reshape(32, 64, -1)[..., 0] - upright.astype(int)).max() <= 2


REFUSED = """
import sys
sys.modules["imagecodecs"] = None
from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
for name in sys.argv[1:]:
    try:
        decode_image(name, 3, [0, 900])
    except DECODING_ERRORS as error:
        print(error)
"""


def test_without_the_library_they_are_refused_by_name(tmp_path):
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    (tmp_path / "a.jp2").write_bytes(jpeg_2000(values_of(10, 3), 10))
    (tmp_path / "a.avif").write_bytes(avif(values_of(10, 3), 10))
    names = [str(tmp_path / name) for name in ("a.jp2", "a.avif")]
    done = subprocess.run([sys.executable, "-c", REFUSED, *names], capture_output=True, text=True, check=True)
    way_out = "imagecodecs reads it: `pip install imagecodecs`, or save the image as .npy."
    assert done.stdout.splitlines() == [
        f"PIL misreads this JPEG 2000; {way_out}",
        f"PIL misreads this 10-bit AVIF; {way_out}",
    ]
