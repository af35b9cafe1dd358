"""Scenes of several digits with a mask each, made from the digits that come with scikit-learn."""

import io

import numpy as np
from PIL import Image

from .embedded_digits import load_digits_split, png_bytes

_CELLS, _CELL_SIDE, _SMALLEST = 2, 16, 12  # cells a row, their pixels a side, pixels a side of the smallest digit
_NUM_SCENES = {"train": 1000, "test": 250}
_INK = 64  # of 255: from here on a pixel belongs to a digit


def load_digit_scenes_split(split: str):
    """
    Four digits of several sizes on 32 x 32 pixels, one somewhere in each quarter, the same ones always; train scenes
    are made of train digits, test scenes of test digits.

    Args:
        split (`str`): `train` or `test`, 1,000 and 250 scenes.

    Returns:
        `datasets.Dataset` with PNG bytes in `image` and in `mask`: 0 is the background, 1 to 10 are the digits 0 to 9.

    Raises:
        ValueError: If there is no such split.
    """
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    if split not in _NUM_SCENES:
        raise ValueError(f"`dataset` 'digit-scenes' has the splits {' and '.join(_NUM_SCENES)}, got {split!r}.")
    digits = load_digits_split(split)
    scans = [Image.open(io.BytesIO(value["bytes"])) for value in digits.with_format("arrow")["image"].to_pylist()]
    labels, rng = digits["label"], np.random.default_rng([0, len(split)])
    columns = {"image": [], "mask": []}
    for _ in range(_NUM_SCENES[split]):
        image = np.zeros((_CELLS * _CELL_SIDE,) * 2, np.uint8)
        mask = np.zeros_like(image)
        for cell, digit in enumerate(rng.choice(len(scans), _CELLS**2, replace=False)):
            side = int(rng.integers(_SMALLEST, _CELL_SIDE + 1))
            row, column = _CELL_SIDE * np.array(divmod(cell, _CELLS)) + rng.integers(0, _CELL_SIDE - side + 1, 2)
            place = np.s_[row : row + side, column : column + side]
            image[place] = np.asarray(scans[digit].resize((side, side), Image.Resampling.BILINEAR))
            mask[place] = np.where(image[place] >= _INK, labels[int(digit)] + 1, 0)
        columns["image"].append({"bytes": png_bytes(image), "path": None})
        columns["mask"].append({"bytes": png_bytes(mask), "path": None})
    return Dataset.from_dict(columns, features=Features({"image": ImageFeature(), "mask": ImageFeature()}))
