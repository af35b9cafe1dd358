import numpy as np
import pytest
from PIL import Image, ImageOps

from lejepa_hf.data.orientations import ORIENTATION, UPRIGHT


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_are_turned_as_pil_turns_them(orientation):
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 4)
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    assert (UPRIGHT[orientation](pixels) == np.asarray(ImageOps.exif_transpose(image))).all()
