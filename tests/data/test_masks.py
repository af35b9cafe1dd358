import io

import numpy as np
import pytest
from image_files import fits, npy, tiff
from image_files import png as png_of_bits
from PIL import Image

from lejepa_hf.data.masks import decode_mask, resize_mask


def png(image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


NUMBERS = np.array([[0, 1, 20], [255, 7, 0]], np.uint8)


def test_one_channel_a_palette_an_array_or_grey():
    with_palette = Image.fromarray(NUMBERS)
    with_palette.putpalette([9] * 768)
    for value in (png(Image.fromarray(NUMBERS)), png(with_palette), NUMBERS, NUMBERS.tolist()):
        assert decode_mask(value).tolist() == NUMBERS.tolist()
    assert decode_mask(png(Image.fromarray(np.dstack([NUMBERS] * 3)))).tolist() == NUMBERS.tolist()


def test_sixteen_bits_are_not_scaled(tmp_path):
    numbers = np.array([[3, 300]], np.uint16)
    (tmp_path / "a.npy").write_bytes(npy(numbers))
    for value in (png(Image.fromarray(numbers)), npy(numbers), {"bytes": None, "path": str(tmp_path / "a.npy")}):
        assert decode_mask(value).tolist() == [[3, 300]]


@pytest.mark.parametrize(
    "file_of",
    [
        lambda numbers: png_of_bits(numbers, bits=4),
        lambda numbers: tiff(numbers, bits=4),
        lambda numbers: tiff(numbers, tags={262: 0}),  # low values are white
        lambda numbers: b"P5 6 4 15\n" + numbers.tobytes(),
        lambda numbers: fits(numbers[::-1].astype(np.int16)),
        lambda numbers: tiff(numbers.astype(np.float64)),
    ],
    ids=["png", "tiff", "inverted", "pgm", "fits", "float64"],
)
def test_classes_are_the_numbers_in_the_file(file_of):
    pytest.importorskip("tifffile")
    pytest.importorskip("astropy")
    numbers = (np.arange(24, dtype=np.uint8) % 16).reshape(4, 6)
    assert decode_mask(file_of(numbers)).tolist() == numbers.tolist()


def test_colours_of_pascal_voc():
    colours = {
        (0, 0, 0): 0,
        (128, 0, 0): 1,
        (0, 128, 0): 2,
        (128, 128, 128): 7,
        (0, 64, 128): 20,
        (224, 224, 192): 255,
    }
    image = Image.fromarray(np.array([list(colours)], np.uint8))
    assert decode_mask(png(image)).tolist() == [list(colours.values())]


def test_a_colour_that_is_no_class():
    # 1, 2, 3 lies between two known colours.
    with pytest.raises(ValueError, match=r"colour \(1, 2, 3\) is not a class of PASCAL VOC"):
        decode_mask(png(Image.fromarray(np.array([[[128, 0, 0], [1, 2, 3]]], np.uint8))))


def test_several_channels():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 2\)"):
        decode_mask(np.zeros((2, 3, 2)))


def test_no_classes_appear_between_classes():
    mask = np.kron([[3, 9], [9, 200]], np.ones((5, 7), int))
    assert set(resize_mask(mask, 4, 6).ravel().tolist()) == {3, 9, 200}
    assert resize_mask(mask, 4, 6).shape == (4, 6)
    assert resize_mask(mask, *mask.shape) is mask
