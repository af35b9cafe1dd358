import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lejepa_hf.data.decoding import decode_image
from lejepa_hf.hub.demo import upload_decoding
from lejepa_hf.hub.demo.upload_decoding import decode_upload

NOISE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size without its pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"


def test_as_without_a_process_of_its_own(tmp_path, monkeypatch):
    # A file of the current folder replaces no module.
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    sixteen_bit = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    for content, channels, pixel_range in (
        (encoded(Image.fromarray(NOISE), "PNG"), 3, None),
        (encoded(sixteen_bit, "TIFF"), 1, [0, 60000]),
        (npy(np.dstack([NOISE, NOISE])), 6, None),
    ):
        found = decode_upload(content, channels, pixel_range)
        expected = decode_image(content, channels, pixel_range)
        assert type(found) is np.ndarray if channels == 6 else found.mode == expected.mode
        assert np.array_equal(np.asarray(found), np.asarray(expected))


def refusal(content: bytes, channels: int = 3) -> str:
    """Why this process cannot decode it: the same function as that of the other."""
    with pytest.raises((ValueError, OSError, Image.DecompressionBombError)) as caught:
        upload_decoding._decode(content, channels, None)
    return str(caught.value)


def test_the_first_of_several_pictures():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:] * 20)
        found = upload_decoding._decode(content, 3, None)
        red, _, blue = found.convert("RGB").getpixel((9, 9))
        assert found.size == (40, 30) and red > 200 and blue < 50


def test_large_images_become_smaller():
    wide = Image.linear_gradient("L").resize((8000, 4000))
    for kind in ("PNG", "JPEG"):
        found = upload_decoding._decode(encoded(wide, kind), 3, None)
        assert found.size == (4000, 2000) and found.getextrema() == (0, 255)
        darker = np.asarray(found).mean(1)
        assert darker[10] < 5 and darker[1000] == pytest.approx(127, abs=2) and darker[-10] > 250
    assert upload_decoding._decode(encoded(Image.new("L", (4096, 4096)), "PNG"), 3, None).size == (4096, 4096)


def test_what_is_not_accepted():
    assert "cannot identify image file" in refusal(b"no image")
    assert "cannot identify image file" in refusal(b"")
    assert "cannot identify image file" in refusal(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>")
    for name, content in (("DICOM", bytes(128) + b"DICM"), ("HEIC", b"\0\0\0\x18ftypheic"), ("FITS", b"SIMPLE  = T")):
        assert f"files of the format {name} are not accepted" in refusal(content)
    # PIL would start Ghostscript.
    assert "EPS files are programs" in refusal(encoded(Image.fromarray(NOISE), "EPS"))
    assert "10000 x 1 pixels are too long: at most 8 times" in refusal(encoded(Image.new("L", (10000, 1)), "PNG"))
    assert "1 x 10000 pixels are too long" in refusal(npy(np.zeros((10000, 1, 3), np.uint8)))
    assert "has 9000 x 8000 pixels, and at most 67,108,864" in refusal(png_header(9000, 8000))
    assert "pixels" in refusal(png_header(60000, 60000))
    assert "pixels" in refusal(png_header(2**31 - 1, 2**31 - 1))
    assert "5000 x 5000 pixels, and at most 20,132,659" in refusal(encoded(Image.new("1", (5000, 5000)), "TIFF"), 10)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    assert "allow_pickle=False" in refusal(pickled.getvalue())


def test_a_visitor_reads_why(tmp_path, monkeypatch):
    for content, reason in (
        (b"no image", r"cannot identify image file\."),
        (encoded(Image.fromarray(NOISE), "PNG")[:300], r"[\w ().]+\."),
        (
            encoded(Image.new("L", (10000, 1)), "PNG"),
            r"10000 x 1 pixels are too long: at most 8 times as long as wide\.",
        ),
    ):
        with pytest.raises(ValueError, match=f"^This file cannot be read as an image: {reason}$"):
            decode_upload(content, 3, None)


def test_time_and_memory_are_limited(monkeypatch):
    content = encoded(Image.fromarray(NOISE), "PNG")
    with pytest.raises(ValueError, match="^This file cannot be read as an image: it was not decoded within 0.001 s"):
        decode_upload(content, 3, None, seconds=0.001)
    claimed = npy(np.zeros((4, 4, 3)))[:64].replace(b"(4, 4, 3)", b"(9000000000, 3)")  # more than there is
    with pytest.raises(ValueError, match="^This file cannot be read as an image: "):
        decode_upload(claimed, 3, None)
