"""Whether a file is a picture that can be read."""

from matplotlib import pyplot
from PIL import Image


def assert_is_a_picture(path, run, name: str):
    assert path == run / "pictures" / name
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as image:
        assert 400 <= image.width <= 2400
        assert 300 <= image.height <= 2000
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 20
    assert not pyplot.get_fignums()
