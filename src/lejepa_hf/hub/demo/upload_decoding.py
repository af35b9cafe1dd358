"""Decodes the files of strangers in a process of its own, which is ended if it takes too much time or memory."""

import io
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image

from ...data.decoding import DECODING_ERRORS, load_upright, open_image, stored_size
from ...data.pixel_ranges import PixelRange
from ...data.readers.heif import is_heif
from ...data.readers.known_readers import is_dicom
from ...system.error_text import reason_of

_SECONDS = 10
_MEMORY = 4 << 30  # bytes of address space
_MOST_VALUES = 3 << 26  # in all channels
_PIXELS = 1 << 24  # larger images are made smaller: no map shows it, and it saves most of the time
_LONGEST = 8  # times as long as wide: processors enlarge the shorter side, and the longer one with it
# PIL reads many more, some of them by starting other programs.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_UNREADABLE = "This file cannot be read as an image: "
_MARK = "reason: "  # what follows it is for visitors
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main()"


def decode_upload(
    content: bytes, num_channels: int, pixel_range: PixelRange | None, seconds: float = _SECONDS
) -> Image.Image | np.ndarray:
    """
    Decode the content of an image file or a `.npy` as [`~data.decoding.decode_image`] does, safely: a separate process
    decodes, for at most `seconds`, and makes images of more than 17 million pixels smaller. ValueError, with a
    sentence for the visitor, if that fails, or if the file has a format that is not accepted, more than 67 million
    pixels of 3 channels, or one side more than 8 times as long as the other.
    """
    arguments = json.dumps([path for path in sys.path if path]), json.dumps([num_channels, pixel_range])
    # Isolated, because a file of the current folder could otherwise replace a module.
    command = [sys.executable, "-I", "-c", _PROGRAM.format(module=__name__), *arguments]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves memory
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=seconds, env=os.environ | threads)
    except subprocess.TimeoutExpired:
        raise ValueError(_UNREADABLE + f"it was not decoded within {seconds:g} seconds.") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").rpartition(_MARK)
        raise ValueError(_UNREADABLE + (said[2] if said[1] else "decoding failed or needed too much memory."))
    array = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    return Image.fromarray(array) if num_channels in (1, 3) else array


def main() -> None:
    """Decode what comes from standard input and write an array to standard output. For `decode_upload`."""
    _limit_memory()
    num_channels, pixel_range = json.loads(sys.argv[2])
    try:
        image = _decode(sys.stdin.buffer.read(), num_channels, pixel_range)
        saved = io.BytesIO()  # a pipe has no position, which NumPy asks for
        np.save(saved, np.asarray(image), allow_pickle=False)
    except DECODING_ERRORS as error:
        # A file has no name here, and PIL describes the object instead.
        reason = re.sub(r"<_io\.BytesIO object at \w+>", "", reason_of(error))
        sys.stderr.write(f"{_MARK}{' '.join(reason.split()).rstrip('.')}.")
        sys.exit(1)
    sys.stdout.buffer.write(saved.getbuffer())


def _decode(content: bytes, num_channels: int, pixel_range: PixelRange | None) -> Image.Image | np.ndarray:
    # What other libraries than PIL would read.
    others = {"FITS": content.startswith(b"SIMPLE"), "DICOM": is_dicom(content), "HEIC": is_heif(content)}
    for name, is_it in others.items():
        if is_it:
            raise ValueError(f"files of the format {name} are not accepted: save it as PNG or JPEG")
    image = open_image(content, num_channels, pixel_range)
    if isinstance(image, Image.Image) and image.format not in (None, *_FORMATS):  # None: it was an array
        raise ValueError(f"files of the format {image.format} are not accepted: save it as PNG or JPEG")
    width, height = stored_size(image)
    most = _MOST_VALUES // max(num_channels, 3)
    if width * height > most:
        raise ValueError(f"it has {width} x {height} pixels, and at most {most:,} are accepted")
    if max(width, height) > _LONGEST * min(width, height):
        raise ValueError(f"{width} x {height} pixels are too long: at most {_LONGEST} times as long as wide")
    image = load_upright(image, _reduction(width * height), num_channels, pixel_range)
    if isinstance(image, np.ndarray):
        return image
    left = _reduction(image.width * image.height)  # only JPEGs were made smaller above
    return image if left == 1 else image.reduce(left)


def _reduction(num_pixels: int) -> int:
    """The number by which width and height are divided."""
    return math.ceil(math.sqrt(num_pixels / _PIXELS))


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = _MEMORY if allowed == resource.RLIM_INFINITY else min(_MEMORY, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
