import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lejepa_hf.data.decoding import DECODING_ERRORS, decode_image
from lejepa_hf.data.readers.heif import is_heif
from lejepa_hf.data.sources import load_source

pytest.importorskip("pillow_heif")


@pytest.fixture(scope="module")
def heic(tmp_path_factory):
    """A photograph as HEIC, written by another process: this one has nothing registered."""
    path = tmp_path_factory.mktemp("phone") / "photo.heic"
    made = "import sys, pillow_heif; from PIL import Image; pillow_heif.register_heif_opener(); "
    made += "Image.new('RGB', (64, 48), (200, 100, 50)).save(sys.argv[1], quality=95)"
    subprocess.run([sys.executable, "-c", made, path], check=True)
    return path


def test_photographs_of_phones(heic):
    assert is_heif(heic.read_bytes())
    source = load_source(heic.parent)
    for value in (source.dataset[0]["image"], heic.read_bytes()):
        pixels = np.asarray(decode_image(value))
        assert pixels.shape == (48, 64, 3) and abs(pixels - np.array([200.0, 100, 50])).max() <= 4


def test_a_damaged_one_is_an_error_of_the_image(heic):
    with pytest.raises(DECODING_ERRORS):
        decode_image(heic.read_bytes()[:200])


def test_others_are_not_taken_for_it():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    assert not is_heif(buffer.getvalue())
