import io

import numpy as np
import pytest
from PIL import Image

from lejepa_hf.data.decoding import decode_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(Image.fromarray(np.full((6, 5), 40, np.uint8)))
    return image


CASES = {
    "L": (Image.fromarray(GREY), GREY),
    "RGB": (Image.fromarray(COLOR), COLOR),
    "RGBA": (with_alpha(Image.fromarray(COLOR)), COLOR),
    "LA": (with_alpha(Image.fromarray(GREY)), GREY),
    "1": (Image.fromarray(GREY > 127), np.where(GREY > 127, 255, 0)),
    "I;16": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "I": (Image.fromarray(GREY.astype(np.int32) * 257), GREY),
    "F": (Image.fromarray(GREY.astype(np.float32) / 255), GREY),
    "F;255": (Image.fromarray(GREY.astype(np.float32) + 0.25), GREY),
    "CMYK": (Image.fromarray(np.dstack([255 - COLOR, np.zeros_like(GREY)]), "CMYK"), COLOR),
}


@pytest.mark.parametrize("mode", CASES)
def test_modes(mode):
    image, expected = CASES[mode]
    decoded = decode_image(image)
    assert image.mode == mode.split(";255")[0]
    assert decoded.mode == ("L" if expected.ndim == 2 else "RGB")
    np.testing.assert_array_equal(np.asarray(decoded), expected)


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palettes(transparency):
    image = Image.fromarray(RNG.integers(0, 3, (6, 5), dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    if transparency is not None:
        image.info["transparency"] = transparency
    colours = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]])
    for value in (image, encoded(image)):
        decoded = decode_image(value)
        assert decoded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(decoded), colours[np.asarray(image)])


def test_sixteen_bit_file_keeps_its_greys(tmp_path):
    values = np.linspace(0, 65535, 30).astype(np.uint16).reshape(6, 5)
    Image.fromarray(values).save(tmp_path / "scan.png")
    decoded = np.asarray(decode_image(tmp_path / "scan.png"))
    np.testing.assert_array_equal(decoded, values >> 8)
    assert 100 < np.median(decoded) < 155


@pytest.mark.parametrize("kind", ["bytes", "str", "path", "dict of bytes", "dict of path", "array", "PIL"])
def test_containers(kind, tmp_path):
    image, path = Image.fromarray(COLOR), tmp_path / "image.png"
    image.save(path)
    value = {
        "bytes": encoded(image),
        "str": str(path),
        "path": path,
        "dict of bytes": {"bytes": encoded(image), "path": "not/there.png"},
        "dict of path": {"bytes": None, "path": str(path)},
        "array": COLOR,
        "PIL": image,
    }[kind]
    decoded = decode_image(value)
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), COLOR)


UPRIGHT = {  # the tag's value -> what undoes it
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    6: lambda pixels: np.rot90(pixels, -1),
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation):
    image = Image.fromarray(COLOR)
    exif = image.getexif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(image, exif=exif))
    np.testing.assert_array_equal(np.asarray(decoded), UPRIGHT[orientation](COLOR))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
def test_truncated_file(kind, share):
    data = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    with pytest.raises(OSError):
        decode_image(data[: int(share * len(data))])


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        decode_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("value", [None, 3, [1, 2], ["a.png"]])
def test_wrong_type(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        decode_image(value)
