"""The picture of every format, depth, number of channels and range is the one that NumPy makes of the same values."""

import importlib.util
import io
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from image_files import fits, npy, png, tiff
from PIL import Image, features

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image, open_image, upright_size

RNG = np.random.default_rng(0)
HAS_TIFFFILE, HAS_ASTROPY = (importlib.util.find_spec(name) is not None for name in ("tifffile", "astropy"))
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")
RANGES = {"u1": (20.0, 200.0), "i1": (-50.0, 90.0), "i2": (-1000.0, 3000.0), "i4": (-1e6, 1e6)}


def values_of(kind: str, bands: int) -> np.ndarray:
    """Values `(H, W, bands)` over the whole range of the type, floats from slightly below 0 to slightly above 1."""
    if kind[0] == "f":
        values = RNG.uniform(-0.05, 1.05, (6, 4, bands)).astype(kind)
        values[0, 0, 0], values[0, 1, 0], values[0, 2, 0] = np.nan, np.inf, 1e4
        return values
    ends = np.iinfo(kind)
    return RNG.integers(ends.min, ends.max, (6, 4, bands), dtype=kind, endpoint=True)


def range_of(kind: str) -> tuple[float, float]:
    return RANGES.get(kind, (0.2, 0.8) if kind[0] == "f" else (1000.0, 0.75 * np.iinfo(kind).max))


def reference(values: np.ndarray, pixel_range: tuple[float, float] | None) -> np.ndarray | None:
    """The 8-bit picture; None where a range has to be given."""
    kind = values.dtype.kind
    if pixel_range is None and kind != "f":
        if values.itemsize > 2:
            return None
        pixel_range = (float(np.iinfo(values.dtype).min), float(np.iinfo(values.dtype).max))
    low, high = pixel_range or (0.0, 1.0)
    scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255)


def file_of(form: str, values: np.ndarray) -> bytes | None:
    """A file of this form, None if there is no such file."""
    kind, bands = values.dtype.str[1:], values.shape[-1]
    if form == "npy":
        return npy(values)
    if form == "png":
        return png(values) if kind == "u2" and bands in (1, 3, 4) else None
    if form == "fits":
        is_one = kind in ("u1", "i2", "i4", "f4", "f8")
        return fits(np.moveaxis(values, -1, 0)[:, ::-1].squeeze()) if is_one else None
    if form == "pages":
        return tiff(*np.moveaxis(values, -1, 0)) if bands > 1 else None
    return tiff(values, planar=form == "planes") if bands > 1 or form == "tiff" else None


def is_left_to_a_library(form: str, kind: str, channels: int, pixel_range: object) -> bool:
    """Whether PIL cannot read such a file."""
    if form == "pages" or (form == "tiff" and channels == 1):
        return kind in ("f2", "f8")
    if form in ("tiff", "planes"):
        if channels > 3 or kind not in ("u1", "u2"):
            return True
        return kind == "u2" and (form == "planes" or pixel_range is not None)
    return form == "fits"


MATRIX = [
    (form, kind, channels)
    for form, kind, channels in product(("npy", "png", "tiff", "planes", "pages", "fits"), TYPES, (1, 3, 4, 5))
    if file_of(form, np.zeros((6, 4, channels), kind)) is not None
]


@pytest.mark.parametrize(("form", "kind", "channels"), MATRIX)
def test_every_format_has_the_pixels_of_numpy(form, kind, channels):
    values = values_of(kind, channels)
    file = file_of(form, values)
    for pixel_range in (None, range_of(kind)):
        expected = reference(values, pixel_range)
        library = {"fits": HAS_ASTROPY}.get(form, HAS_TIFFFILE)
        if is_left_to_a_library(form, kind, channels, pixel_range) and not library:
            with pytest.raises(DECODING_ERRORS, match="(tifffile|astropy) reads it: `pip install (tifffile|astropy)"):
                decode_image(file, channels, pixel_range)
        elif expected is None:
            with pytest.raises(DECODING_ERRORS, match=r"`pixel_range: \[low, high\]`"):
                decode_image(file, channels, pixel_range)
        else:
            found = np.asarray(decode_image(file, channels, pixel_range)).reshape(6, 4, channels).astype(float)
            if form == "png":
                expected[..., 3:] = reference(values[..., 3:], None)  # transparency
            np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [3, 4, 5])
@pytest.mark.parametrize("form", ["npy", "png", "tiff", "planes", "pages", "fits"])
def test_each_channel_has_a_range_of_its_own(form, kind, channels):
    values = np.abs(values_of(kind, channels))
    file = file_of(form, values)
    ranges = [
        [low * (1 + place), high * (1 - place / 10)] for place, (low, high) in enumerate([range_of(kind)] * channels)
    ]
    if file is None or (is_left_to_a_library(form, kind, channels, ranges) and not (HAS_ASTROPY and HAS_TIFFFILE)):
        pytest.skip("no such file, or its library is not installed")
    found = np.asarray(decode_image(file, channels, ranges)).reshape(6, 4, channels).astype(float)
    for channel, pair in enumerate(ranges):
        is_transparency = form == "png" and channel == 3
        expected = reference(values[..., channel : channel + 1], None if is_transparency else tuple(pair))
        np.testing.assert_allclose(found[..., channel : channel + 1], expected, atol=1)


def test_grey_images_among_those_with_a_range_for_each_channel_are_refused():
    with pytest.raises(ValueError, match="has 3 pairs, one for each channel, but the image has 1 channels"):
        decode_image(npy(np.zeros((6, 4), np.uint16)), 3, [[0.0, 9.0]] * 3)


def test_bits_and_tags_of_tiffs():
    grey = RNG.integers(0, 4096, (6, 4), dtype=np.uint16)
    whole = grey / 4095 * 255
    inverted = tiff(grey, tags={262: 0})
    assert_picture(tiff(grey, bits=12), whole)
    assert_picture(inverted, 255 - whole, pixel_range=[0, 4095])
    assert_picture(tiff(grey.astype(np.uint8), tags={262: 0}), 255.0 - grey % 256)
    assert_picture(tiff(grey.astype(np.uint8).astype(np.uint32)), grey % 256)  # wide integers from 0 to 255
    missing = np.where(grey > 3000, 65535, grey).astype(np.uint16)
    assert_picture(tiff(missing, tags={42113: b"65535\0"}), np.where(grey > 3000, 0, whole), pixel_range=[0, 4095])
    few = grey.astype(np.uint8) % 9 + 100
    assert_picture(tiff(few, tags={42113: b"105\0"}), np.where(few == 105, 0, few))
    floats = np.where(grey > 1000, -9999, grey / 1000).astype(np.float32)
    assert_picture(tiff(floats, tags={42113: b"-9999\0\0"}), np.where(grey > 1000, 0, grey / 1000 * 255))
    turned = tiff(grey, tags={274: 6})
    assert upright_size(open_image(turned)) == (6, 4)
    assert_picture(turned, np.rot90(whole, -1), pixel_range=[0, 4095])


def assert_picture(value, expected: np.ndarray, channels: int = 1, pixel_range=None):
    np.testing.assert_allclose(np.asarray(decode_image(value, channels, pixel_range)).astype(float), expected, atol=1)


PAGES = RNG.integers(0, 256, (4, 6, 4), dtype=np.uint8)


@pytest.mark.parametrize(("pages", "channels"), [(1, 1), (1, 3), (2, 2), (3, 3), (4, 4)])
def test_pages_are_channels(pages, channels):
    picture = PAGES[0] if pages == 1 else np.moveaxis(PAGES[:pages], 0, -1)
    assert_picture(tiff(*PAGES[:pages]), picture, channels)
    with pytest.raises(DECODING_ERRORS, match="different sizes"):
        decode_image(tiff(*PAGES[:pages], PAGES[0, ::2, ::2]), channels + 1)


@pytest.mark.parametrize(("pages", "channels"), [(2, 1), (3, 1), (2, 3), (4, 3), (4, 2)])
def test_more_or_fewer_pages_than_channels(pages, channels):
    with pytest.raises(
        DECODING_ERRORS, match=f"{pages} channels, but {channels} .* `image_mean` .* or set `pages: images` to take"
    ):
        decode_image(tiff(*PAGES[:pages]), channels)


def test_previews_are_not_pages():
    assert_picture(tiff(PAGES[0], preview=PAGES[0, ::2, ::2]), PAGES[0])
    assert_picture(tiff(*PAGES[:3], preview=PAGES[0, ::2, ::2]), np.moveaxis(PAGES[:3], 0, -1), 3)


def test_formats_that_pil_scales_are_refused_with_a_range():
    grey = RNG.integers(0, 4096, (6, 4), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG2000")
    colours = np.dstack([grey] * 3)
    sixteen = b"P5 4 6 65535\n" + grey.astype(">u2").tobytes()
    for value in (sixteen, buffer.getvalue(), npy(grey)):
        assert_picture(value, grey / 4095 * 255, pixel_range=[0, 4095])
        assert_picture(value, grey / 65535 * 255)
    with pytest.raises(DECODING_ERRORS, match="`pixel_range` needs .* PIL scales those of this PPM"):
        decode_image(b"P6 4 6 65535\n" + colours.astype(">u2").tobytes(), 3, [0.0, 4095.0])
    assert np.asarray(decode_image(b"P6 4 6 255\n" + colours.astype(np.uint8).tobytes(), 3, [0.0, 300.0])).shape == (
        6,
        4,
        3,
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "SGI", "BMP"])
def test_files_of_eight_bits_are_scaled_by_ranges_of_eight_bits(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 4, 3), 100, np.uint8)).save(buffer, kind)
    for value in (buffer.getvalue(), Image.open(buffer)):
        for pixel_range, expected in (([0, 200], 128), ([50, 100], 255), ([0, 300], 100), ([0, 1], 100), (None, 100)):
            np.testing.assert_allclose(np.asarray(decode_image(value, 3, pixel_range)).astype(int), expected, atol=3)


def test_damaged_files_raise_decoding_errors_only():
    rng, refused = np.random.default_rng(1), 0
    wholes = [file_of(form, values_of("u2", 5)) for form in ("tiff", "planes", "pages")] + [fits(RNG.random((6, 4)))]
    for trial in range(200):
        data = bytearray(wholes[trial % len(wholes)])
        for place in rng.integers(4, 300 if trial % 2 else len(data), size=3):
            data[place] = rng.integers(256)
        if trial % 5 == 0:
            del data[rng.integers(4, len(data)) :]
        try:
            decode_image(bytes(data), 5)
        except DECODING_ERRORS:
            refused += 1
    assert refused > 50


def test_planes_that_the_caller_opened_with_pil_are_refused():
    with pytest.raises(DECODING_ERRORS, match="PIL misreads TIFFs with planes .* the path or the bytes"):
        decode_image(Image.open(io.BytesIO(tiff(values_of("u2", 3), planar=True))))


def test_sizes_are_checked_before_pixels_are_read(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    for value in (tiff(values_of("u2", 5)), fits(RNG.random((6, 4)))):
        with pytest.raises(DECODING_ERRORS, match="4 x 6 pixels are more than|reads it"):
            decode_image(value, 5)


def test_what_no_library_reads_keeps_the_error_of_pil(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for value in (b"no image", tmp_path / "a.png"):
        with pytest.raises(Image.UnidentifiedImageError):
            decode_image(value)


def test_the_lowest_pillow_of_setup_cfg_is_the_one_of_the_table():
    """`.ci/lowest_versions` runs these tests with it."""
    root = Path(__file__).parents[2]
    assert "    pillow>=11\n" in (root / "setup.cfg").read_text(encoding="utf-8")
    lowest = (root / ".ci" / "lowest_versions").read_text(encoding="utf-8")
    assert "pillow" in lowest and "tests/data/test_deep_files.py" in lowest


def test_turned_files_are_read_alike_from_a_path(tmp_path):
    """PIL maps an uncompressed file that it opens by its path, with the sides exchanged."""
    grey = RNG.integers(0, 256, (6, 4), dtype=np.uint8)
    (tmp_path / "turned.tif").write_bytes(tiff(grey, tags={274: 6}))
    assert_picture(tmp_path / "turned.tif", np.rot90(grey, -1))


@pytest.mark.skipif(not HAS_TIFFFILE, reason="tifffile is an extra")
@pytest.mark.parametrize("kind", ["u2", "i2", "f4"])
def test_compressed_files_of_the_other_byte_order(kind, tmp_path):
    import tifffile

    values = RNG.integers(0, 4096, (16, 12)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=">", compression="zlib")
    expected = reference(values[:, :, None], (0.0, 4095.0))[:, :, 0]
    assert_picture(tmp_path / "a.tif", expected, pixel_range=[0, 4095])
    assert_picture((tmp_path / "a.tif").read_bytes(), expected, pixel_range=[0, 4095])
