"""The labels of a batch of images as one array, of the form that their kind has."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...data.image_source import ImageSource


def label_array(labels: Sequence[Any], source: ImageSource) -> np.ndarray:
    """
    Labels of images of a source: class numbers `(num_images,)`, int64, -1 for images without a label; for multi-label
    uint8 `(num_images, num_classes)`, 1 for each class of an image; for numbers float64 `(num_images,)`.
    """
    if source.label_kind == "number":
        return np.asarray(labels, dtype=np.float64)
    if source.label_kind != "multi-label":
        return np.asarray([-1 if label is None else label for label in labels], dtype=np.int64)
    is_class = np.zeros((len(labels), len(source.class_names or ())), dtype=np.uint8)
    for row, classes in zip(is_class, labels, strict=True):
        row[classes] = 1
    return is_class
