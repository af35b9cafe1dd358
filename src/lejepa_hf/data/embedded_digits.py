"""The digits that come with scikit-learn, as a dataset with undecoded images."""

import io

import numpy as np
from PIL import Image

from .dataset_kinds import Opened

_TEST_SHARE = 0.25


def load_digits_split(split: str) -> Opened:
    """scikit-learn's 8x8 scans as PNG bytes in `image`, digits in `label`; a stratified quarter is the test split."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"`dataset` 'digits' has the splits train and test, got {split!r}.")
    scans, labels = load_digits(return_X_y=True)
    parts = train_test_split(scans, labels, test_size=_TEST_SHARE, random_state=0, stratify=labels)
    pixels, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    pixels = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    return Dataset.from_dict(
        {"image": [{"bytes": png_bytes(scan), "path": None} for scan in pixels], "label": labels.tolist()},
        features=Features({"image": ImageFeature(), "label": ClassLabel(names=[str(digit) for digit in range(10)])}),
    )


def png_bytes(pixels: np.ndarray) -> bytes:
    """A uint8 array as PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
