"""Scenes of several digits with a mask each, made from the digits that come with scikit-learn."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from lejepa_hf.data.sources import load_digits_split, png_bytes

_CELLS, _CELL_SIDE, _SMALLEST = 2, 16, 12  # cells a row, their pixels a side, pixels a side of the smallest digit
_INK = 64  # of 255: from here on a pixel belongs to a digit


def digit_scenes(split: str, number: int) -> Dataset:
    """
    Four digits of several sizes on 32 x 32 pixels, one somewhere in each quarter, always the same.

    Returns:
        PNG bytes in `image` and in `mask`: 0 is the background, 1 to 10 are the digits 0 to 9.
    """
    digits = load_digits_split(split)
    scans = [Image.open(io.BytesIO(value["bytes"])) for value in digits.with_format("arrow")["image"].to_pylist()]
    labels, rng = digits["label"], np.random.default_rng([0, len(split)])
    pairs = [_scene(scans, labels, rng) for _ in range(number)]
    columns = {
        name: [{"bytes": png_bytes(pixels), "path": None} for pixels in of_name]
        for name, of_name in zip(("image", "mask"), zip(*pairs, strict=True), strict=True)
    }
    return Dataset.from_dict(columns, features=Features({"image": ImageFeature(), "mask": ImageFeature()}))


def _scene(scans: list[Image.Image], labels: Sequence[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((_CELLS * _CELL_SIDE,) * 2, np.uint8)
    mask = np.zeros_like(image)
    for cell, digit in enumerate(rng.choice(len(scans), _CELLS**2, replace=False)):
        side = int(rng.integers(_SMALLEST, _CELL_SIDE + 1))
        row, column = _CELL_SIDE * np.array(divmod(cell, _CELLS)) + rng.integers(0, _CELL_SIDE - side + 1, 2)
        place = np.s_[row : row + side, column : column + side]
        image[place] = np.asarray(scans[digit].resize((side, side), Image.Resampling.BILINEAR))
        mask[place] = np.where(image[place] >= _INK, labels[int(digit)] + 1, 0)
    return image, mask


def save_digit_scenes(folder: Path, num_train: int = 1000, num_test: int = 250) -> Path:
    """Both splits as `save_to_disk` writes them."""
    DatasetDict(train=digit_scenes("train", num_train), test=digit_scenes("test", num_test)).save_to_disk(folder)
    return folder
