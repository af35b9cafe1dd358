import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import npy, png
from PIL import Image, features

from lejepa_hf.data.decoding import (
    DECODING_ERRORS,
    check_size,
    decode_image,
    load_upright,
    open_image,
    resized,
    upright_size,
)

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
    "CMYK": (Image.fromarray(np.dstack([255 - COLOR, np.zeros_like(GREY)]), "CMYK"), COLOR),
}


@pytest.mark.parametrize("mode", CASES)
def test_modes(mode):
    image, expected = CASES[mode]
    decoded = decode_image(image)
    assert image.mode == mode
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


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation, kind):
    image = Image.fromarray(COLOR)
    exif = image.getexif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    decoded = decode_image(data)
    np.testing.assert_array_equal(np.asarray(decoded), UPRIGHT[orientation](COLOR))
    assert upright_size(open_image(data)) == decoded.size


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_senseless_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(Image.fromarray(COLOR), exif=exif))
    assert upright_size(opened) == (5, 6)
    np.testing.assert_array_equal(np.asarray(load_upright(opened)), COLOR)


FILES = {  # mode -> file, and how far what comes out may be from what went in
    "CMYK": ("JPEG", {"quality": 100}, 12),
    "CMYK in TIFF": ("TIFF", {}, 0),
    "I;16": ("PNG", {}, 0),
    "I;16 in TIFF": ("TIFF", {}, 0),
    "F": ("TIFF", {}, 0),
    "LA": ("PNG", {}, 0),
    "RGBA": ("WEBP", {"lossless": True, "exact": True}, 0),
    "1": ("TIFF", {"compression": "group4"}, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_modes_of_files(name):
    kind, settings, tolerance = FILES[name]
    image, expected = CASES[name.split(" ")[0]]
    opened = open_image(encoded(image, kind, **settings))
    assert opened.mode == image.mode
    decoded = load_upright(opened)
    assert decoded.mode == ("L" if expected.ndim == 2 else "RGB")
    np.testing.assert_allclose(np.asarray(decoded).astype(int), expected, atol=tolerance)


@pytest.mark.parametrize("reduction", [1, 2, 3, 4, 7, 8, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_reduction_of_jpegs(reduction, mode):
    across, down = np.meshgrid(np.linspace(0, 200, 320), np.linspace(0, 55, 200))
    image = Image.fromarray((across + down).astype(np.uint8)).convert(mode)
    data = encoded(image, "JPEG", quality=95)
    whole, reduced = decode_image(data), load_upright(open_image(data), reduction)
    power = {3: 2, 7: 4, 100: 8}.get(reduction, reduction)
    assert reduced.mode == mode and reduced.size == (320 // power, 200 // power)
    difference = np.asarray(reduced).astype(int) - np.asarray(whole.resize(reduced.size, Image.Resampling.BOX))
    assert np.abs(difference).mean() < 1
    assert load_upright(open_image(encoded(image)), reduction).size == (320, 200)  # PNGs are whole or not at all


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


def test_more_pixels_than_allowed(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)  # PIL itself warns, and refuses from twice as many on
    for value in (encoded(Image.fromarray(COLOR)), Image.fromarray(COLOR), COLOR):
        with pytest.raises(Image.DecompressionBombError, match="5 x 6 pixels are more than `max_image_pixels`, 29"):
            decode_image(value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 14)
    with pytest.raises(Image.DecompressionBombError, match="`max_image_pixels`"):
        decode_image(encoded(Image.fromarray(COLOR)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    assert decode_image(COLOR).size == (5, 6)
    assert not recwarn.list


SETTINGS = {"JPEG": {}, "PNG": {}, "GIF": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {}, "BMP": {}, "AVIF": {}}


@pytest.mark.parametrize("kind", SETTINGS)
def test_damaged_files_raise_decoding_errors_only(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    whole, refused = encoded(Image.fromarray(pixels), kind, **SETTINGS[kind]), 0
    for trial in range(150):
        data = bytearray(whole)
        for place in rng.integers(min(len(data), 300) if trial % 2 else len(data), size=4):
            data[place] = rng.integers(256)
        if trial % 5 == 0:
            del data[rng.integers(len(data)) :]
        try:
            decode_image(bytes(data))
        except DECODING_ERRORS:
            refused += 1
    assert refused > 10


BANDS = RNG.integers(0, 256, (6, 5, 6), dtype=np.uint8)


def pages(*arrays, mode=None) -> bytes:
    first, *others = [Image.fromarray(array, mode) for array in arrays]
    return encoded(first, "TIFF", save_all=True, append_images=others)


@pytest.mark.parametrize("name", [*CASES, *(f"{mode} jpeg" for mode in ("L", "RGB", "CMYK"))])
def test_one_channel_is_the_luminance(name):
    image, expected = CASES[name.split(" ")[0]]
    value = encoded(image, "JPEG", quality=100) if name.endswith("jpeg") else image
    decoded = decode_image(value, num_channels=1)
    reference = Image.fromarray(expected.astype(np.uint8)).convert("L")
    assert decoded.mode == "L" and decoded.size == (5, 6)
    np.testing.assert_allclose(np.asarray(decoded).astype(int), reference, atol=16 if name.endswith("jpeg") else 0)


def test_one_channel_of_a_reduced_jpeg():
    across, down = np.meshgrid(np.linspace(0, 200, 320), np.linspace(0, 55, 200))
    colours = np.stack([across, across + down, down], -1).astype(np.uint8)
    data = encoded(Image.fromarray(colours), "JPEG", quality=95)
    reduced = load_upright(open_image(data, 1), 4, num_channels=1)
    assert reduced.mode == "L" and reduced.size == (80, 50)
    expected = Image.fromarray(colours).convert("L").resize((80, 50), Image.Resampling.BOX)
    assert np.abs(np.asarray(reduced).astype(int) - np.asarray(expected)).mean() < 1.5


@pytest.mark.parametrize(
    ("value", "channels", "expected"),
    [
        (BANDS, 6, BANDS),
        (BANDS.transpose(2, 0, 1), 6, BANDS),
        (BANDS.tolist(), 6, BANDS),
        (torch.from_numpy(BANDS).permute(2, 0, 1), 6, BANDS),
        (torch.from_numpy(BANDS / 255).requires_grad_(), 6, BANDS),
        (npy(BANDS), 6, BANDS),
        ({"bytes": npy(BANDS), "path": None}, 6, BANDS),
        (pages(*BANDS.transpose(2, 0, 1)), 6, BANDS),
        (pages(*(BANDS.transpose(2, 0, 1).astype(np.uint16) * 257)), 6, BANDS),
        (pages(BANDS[:, :, :3], BANDS[:, :, 3:]), 6, BANDS),
        (encoded(Image.fromarray(BANDS[:, :, :4])), 4, BANDS[:, :, :4]),
        (Image.fromarray(BANDS[:, :, :4], "CMYK"), 4, BANDS[:, :, :4]),
        (encoded(Image.fromarray(BANDS[:, :, :2], "LA")), 2, BANDS[:, :, :2]),
    ],
    ids=[
        "array",
        "channels first",
        "lists",
        "tensor",
        "tensor with a gradient",
        "npy",
        "npy in dict",
        "pages",
        "16-bit pages",
        "RGB pages",
        "RGBA",
        "CMYK",
        "LA",
    ],
)
def test_channels(value, channels, expected):
    opened = open_image(value, channels)
    assert upright_size(opened) == (5, 6)
    decoded = decode_image(value, channels)
    assert isinstance(decoded, np.ndarray) and decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_transparent_palette_has_four_channels():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    data = encoded(image, transparency=1)
    np.testing.assert_array_equal(decode_image(data, 4), [[[255, 0, 0, 255], [0, 255, 0, 0]]])


def test_npy_files(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(BANDS))
    for value in (tmp_path / "a.npy", str(tmp_path / "a.npy"), {"bytes": None, "path": str(tmp_path / "a.npy")}):
        np.testing.assert_array_equal(decode_image(value, 6), BANDS)


@pytest.mark.parametrize(
    ("value", "channels", "found"),
    [
        (BANDS, 5, 6),
        (BANDS, 3, 6),
        (GREY, 2, 1),
        (Image.fromarray(COLOR), 4, 3),
        (encoded(Image.fromarray(COLOR), "JPEG"), 13, 3),
        (pages(GREY, GREY), 4, 2),
        (with_alpha(Image.fromarray(COLOR)), 2, 4),
    ],
)
def test_other_channels_than_expected(value, channels, found):
    with pytest.raises(DECODING_ERRORS, match=f"has {found} channels, but {channels} are expected.*`image_mean`"):
        decode_image(value, channels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "array", "npy", "F", "pages"])
def test_pixel_range(kind):
    values = np.array([[100, 200, 250, 300, 400]], dtype=np.uint16)
    image = Image.fromarray(values.astype(np.float32) if kind == "F" else values)
    channels, value = {
        "array": (3, values),
        "npy": (1, npy(values)),
        "F": (1, image),
        "pages": (2, pages(values, values)),
    }.get(kind) or (3, encoded(image, kind))
    decoded = np.asarray(decode_image(value, channels, [200.0, 300.0]))
    expected = np.array([[0, 0, 128, 255, 255]])
    np.testing.assert_allclose(decoded.astype(int), np.dstack([expected] * 2) if channels == 2 else expected, atol=1)
    np.testing.assert_array_equal(decode_image(COLOR, 3, [200.0, 300.0]), COLOR)  # of 8 bits already


def test_turned_image_of_four_channels():
    image = Image.fromarray(BANDS[:, :, :4])
    exif = image.getexif()
    exif[0x0112] = 6
    data = encoded(image, exif=exif)
    assert upright_size(open_image(data, 4)) == (6, 5)
    np.testing.assert_array_equal(decode_image(data, 4), np.rot90(BANDS[:, :, :4], -1))


def test_large_arrays_are_refused_as_large_files(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    with pytest.raises(Image.DecompressionBombError, match="5 x 6 pixels are more than .*, 29"):
        decode_image(npy(BANDS), 6)


@pytest.mark.parametrize("limit_of_pil", [10, 100, None])
def test_more_pixels_on_request(monkeypatch, limit_of_pil):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit_of_pil)
    for value in (encoded(Image.fromarray(COLOR)), Image.fromarray(COLOR), COLOR, npy(COLOR)):
        assert decode_image(value, max_image_pixels=30).size == (5, 6)
        with pytest.raises(DECODING_ERRORS, match="5 x 6 pixels are more than `max_image_pixels`, 29"):
            decode_image(value, max_image_pixels=29)
    assert limit_of_pil == Image.MAX_IMAGE_PIXELS


def test_the_limit_of_what_is_made_of_an_image():
    check_size(10, 3, 30)
    with pytest.raises(Image.DecompressionBombError, match="4 x 8 pixels after a resize are more than .*, 31; raise"):
        check_size(4, 8, 31, " after a resize")


@pytest.mark.parametrize("name", ["pipe.png", "pipe.npy", "noise.npy", "zeros.png", "folder.png"])
@pytest.mark.parametrize("kind", [str, Path, "file://{}".format, lambda path: {"bytes": None, "path": str(path)}])
def test_what_may_never_end_is_refused(tmp_path, name, kind):
    for pipe in ("pipe.png", "pipe.npy"):
        os.mkfifo(tmp_path / pipe)
    (tmp_path / "noise.npy").symlink_to("/dev/urandom")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DECODING_ERRORS, match=f"{name}' is not a regular file"):
        decode_image(kind(tmp_path / name))


def test_urls_of_files(tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_image(f"file://{tmp_path}/a.png"), COLOR)


def test_a_large_array_is_refused_before_it_is_read(tmp_path):
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2**20, 2**20))  # a file with holes
    with pytest.raises(Image.DecompressionBombError, match="`max_image_pixels`, 89478485"):
        decode_image(tmp_path / "a.npy")


@pytest.mark.parametrize("sizes", [[(5, 6), (7, 6)], [(1, 1), (4000, 4000)]])
def test_pages_of_several_sizes(sizes, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    data = pages(*(np.zeros(size, np.uint8) for size in sizes))
    with pytest.raises(DECODING_ERRORS, match=r"sizes: \(1, 1\) and \(4000, 4000\) pixels|more than"):
        decode_image(data, 2)


MEMORY = """
import resource, sys
from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**27, resource.RLIM_INFINITY))
try:
    decode_image(sys.argv[1])
except DECODING_ERRORS as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say how much memory a process holds")
def test_too_little_memory_is_a_decoding_error(tmp_path):
    Image.new("L", (9000, 9000)).convert("RGB").save(tmp_path / "large.png")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "large.png")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("MemoryError 9000 x 9000 pixels do not fit into memory. Lower `max_image_pixels`")


@pytest.mark.parametrize("odd", [None, 1.02, np.nan, np.inf, -np.inf, -3.0])
def test_one_odd_value_does_not_change_the_others(odd):
    scene = np.clip(np.random.default_rng(0).normal(0.35, 0.15, (64, 64)), 0, 1).astype(np.float32)
    if odd is not None:
        scene[3, 3] = odd
    found = np.asarray(decode_image(encoded(Image.fromarray(scene), "TIFF")))
    np.testing.assert_array_equal(found, decode_image(npy(scene), 1))
    assert len(np.unique(found)) > 100


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_pixel_range_of_colours_of_sixteen_bits(bands, tmp_path):
    values = RNG.integers(0, 4096, (6, 5, bands), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(values, orientation=6))
    colours = values[:, :, : 3 if bands > 2 else 1]
    expected = np.rot90(decode_image(np.squeeze(colours), 3, [0.0, 4095.0]), -1)
    for value in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        np.testing.assert_array_equal(decode_image(value, 3, [0.0, 4095.0]), expected)
        assert decode_image(value, 1, [0.0, 4095.0]).mode == "L"
        assert np.asarray(decode_image(value)).max() < 16  # without a range the whole one
        if bands == 4:
            np.testing.assert_array_equal(decode_image(value, 4, [0.0, 4095.0])[:, :, :3], expected)


def test_arrays_are_resized_like_images():
    image = Image.fromarray(COLOR)
    assert (resized(COLOR, (4, 3)) == np.asarray(resized(image, (4, 3)))).all()
    assert resized(np.zeros((6, 3, 5), np.uint8), (4, 2)).shape == (2, 4, 5)
