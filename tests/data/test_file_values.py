"""The values of images are those that are in their files: all bits, bands and pages, without no-data."""

import io

import numpy as np
import pytest
from image_files import fits, npy, png, tiff
from PIL import Image

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
from lejepa_hf.data.file_values import values_in_file

RNG = np.random.default_rng(0)
NO_DATA = {42113: b"-9999\0"}
GREY = RNG.integers(100, 4096, (6, 8), dtype=np.uint16)
COLOURS = RNG.integers(100, 4096, (6, 8, 3), dtype=np.uint16)
FEW = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def found_in(value, num_channels: int = 3):
    return values_in_file(value, num_channels).values


def saved(image: Image.Image, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (npy(GREY), GREY),
        ({"bytes": npy(GREY), "path": None}, GREY),
        ([GREY, GREY + 1], GREY),
        (GREY.tolist(), GREY),
        (tiff(GREY), GREY),
        (png(GREY[..., None]), GREY),
        (png(COLOURS), COLOURS),
        (png(COLOURS, orientation=6), np.rot90(COLOURS, -1)),
        (b"P5 8 6 65535\n" + GREY.astype(">u2").tobytes(), GREY),
        (saved(Image.fromarray(FEW), "PNG"), FEW),
        (Image.fromarray(FEW), FEW),
        (saved(Image.fromarray(FEW).quantize(256), "GIF"), FEW),
    ],
)
def test_files_that_pil_reads(value, expected):
    found = found_in(value[:1] if isinstance(value, list) and isinstance(value[0], np.ndarray) else value)
    np.testing.assert_array_equal(found.array.reshape(expected.shape), expected)
    assert found.is_known.all() and found.pixel_range is None


def test_files_that_libraries_read():
    pytest.importorskip("tifffile")
    pytest.importorskip("astropy")
    doubles = RNG.uniform(-5, 5, (6, 8))
    for value, expected in [
        (tiff(COLOURS), COLOURS),
        (tiff(COLOURS, planar=True), COLOURS),
        (tiff(COLOURS, tags={274: 6}), np.rot90(COLOURS, -1)),
        (tiff(doubles), doubles),
        (tiff(np.dstack([COLOURS, GREY, GREY]), tags={262: 2}), COLOURS),  # what is beside the colours is not seen
        (fits(doubles), doubles[::-1]),
        (fits(np.stack([doubles, doubles, doubles])), np.dstack([doubles[::-1]] * 3)),
    ]:
        np.testing.assert_array_equal(found_in(value).array, expected)
    five = np.dstack([COLOURS, GREY, GREY])
    np.testing.assert_array_equal(found_in(tiff(five), 5).array, five)


def test_all_pages_are_read_if_they_are_the_channels():
    pages = [GREY, GREY + 1000, GREY + 2000]
    np.testing.assert_array_equal(found_in(tiff(*pages), 3).array, np.dstack(pages))
    np.testing.assert_array_equal(found_in(tiff(*pages), 1).array, GREY)  # a stack that is refused in training
    pytest.importorskip("tifffile")
    doubles = [page / 7 for page in pages]
    np.testing.assert_array_equal(found_in(tiff(*doubles), 3).array, np.dstack(doubles))
    np.testing.assert_array_equal(found_in(tiff(*doubles), 1).array, doubles[0])


def test_where_there_is_no_value():
    wrong = RNG.random((6, 8)) < 0.3
    numbers = np.where(wrong, -9999, GREY.astype(np.int16))
    for value in (tiff(numbers, tags=NO_DATA), tiff(numbers.astype(np.float32), tags=NO_DATA)):
        assert (found_in(value).is_known == ~wrong).all()
    assert (found_in(np.where(wrong, np.nan, GREY)).is_known == ~wrong).all()
    assert (found_in(np.where(wrong, -np.inf, GREY)).is_known == ~wrong).all()
    pages = tiff(numbers, numbers[::-1], tags=NO_DATA)
    assert (found_in(pages, 2).is_known[..., 0] == ~wrong).all()


@pytest.mark.parametrize("planar", [False, True])
def test_where_bands_of_a_raster_have_no_value(planar):
    pytest.importorskip("tifffile")
    wrong = RNG.random((6, 8, 5)) < 0.3
    bands = np.where(wrong, -9999, RNG.integers(0, 4000, (6, 8, 5))).astype(np.int16)
    found = found_in(tiff(bands, planar=planar, tags=NO_DATA), 5)
    assert (found.array == bands).all() and (found.is_known == ~wrong).all()


def test_blank_values_of_fits():
    pytest.importorskip("astropy")
    stored = GREY.astype(np.int16)
    stored[0, :3] = -5
    assert (found_in(fits(stored, BLANK=-5)).is_known == (stored != -5)[::-1]).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_not_a_value(mode, kind):
    picture = Image.fromarray(np.dstack([FEW, FEW[..., 0]])).convert(mode)
    found = found_in(saved(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert not found.is_known[..., -1].any() and found.is_known[..., :-1].all()


def test_transparency_of_sixteen_bits_is_not_a_value():
    four = np.dstack([COLOURS, np.full_like(GREY, 65535)])
    assert found_in(png(four)).is_known.sum() == COLOURS.size
    pytest.importorskip("tifffile")
    assert found_in(tiff(four, tags={338: 2}), 4).is_known.sum() == COLOURS.size


def test_parts_of_files(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pages = np.stack([GREY, GREY + 1000, GREY + 2000]).astype(np.int16)
    pages[1, 0] = -9999
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", extratags=[(42113, "s", 0, "-9999", False)])
    tifffile.imwrite(tmp_path / "b.tif", COLOURS, photometric="rgb")
    (tmp_path / "c.png").write_bytes(png(COLOURS, orientation=6))
    part = found_in(f"{tmp_path / 'a.tif'}#page=1")
    assert (part.array == pages[1]).all() and (part.is_known == (pages[1] != -9999)).all()
    assert (found_in(f"{tmp_path / 'b.tif'}#page=0").array == COLOURS).all()
    part = found_in(f"{tmp_path / 'a.tif'}#window=2,0,4,3")
    assert (part.array == np.moveaxis(pages[:, :3, 2:6], 0, -1)).all() and not part.is_known[0, :, 1].any()
    assert (found_in(f"{tmp_path / 'c.png'}#window=1,2,3,4").array == np.rot90(COLOURS, -1)[2:6, 1:4]).all()


def test_what_cannot_be_read():
    for value in (
        b"no image",
        "https://x/a.png",
        None,
        {"bytes": None, "path": None},
        "/no/such/file.png",
        [object()],
    ):
        with pytest.raises(DECODING_ERRORS):
            values_in_file(value)


def test_decoded_images_have_the_same_values():
    """The values, scaled, are the picture of training."""
    for value in (png(COLOURS), tiff(GREY), npy(COLOURS)):
        scaled = np.clip((found_in(value).array - 500.0) / 3000, 0, 1) * 255
        np.testing.assert_allclose(np.asarray(decode_image(value, 3, [500, 3500])).astype(float), scaled, atol=1)
