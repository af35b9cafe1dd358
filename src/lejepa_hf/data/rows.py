"""What a dataset of any class yields for one image -> a row with named columns; the images and the class in it."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from .batch import GLOBAL_VIEWS

_LABEL = "label"  # column of what stands behind the image in a tuple
_AXES_OF_SEVERAL = 4  # images of equal size in one array


def as_row(example: object, image_column: str) -> Mapping[str, Any]:
    """
    Name the parts of what a dataset yields for one image.

    Args:
        example: A row, which stays as it is; a tuple `(image, label)` as from torchvision's datasets, whose further
            entries are left out; or an image alone. Views that a transform has cut may stand in place of the image.
        image_column (`str`): Column that the image of a tuple, or the image alone, gets. Its label gets `"label"`.
    """
    image, *others = (example or (None,)) if isinstance(example, tuple) else (example,)
    if isinstance(image, Mapping) and (GLOBAL_VIEWS in image or not isinstance(example, tuple)):
        row = image
    else:
        row = {image_column: image}
    return {**row, _LABEL: others[0]} if others else row


def as_images(value: object, view_column: str) -> tuple[Any, ...]:
    """
    The images of a row in a list, a tuple, or an array or tensor of them.

    Args:
        value: What the row holds.
        view_column (`str`): Its column, for messages.

    Raises:
        TypeError: If it is a single image.
    """
    if isinstance(value, list | tuple) or (hasattr(value, "__array__") and np.ndim(value) == _AXES_OF_SEVERAL):
        return tuple(value)  # type: ignore[arg-type] # arrays and tensors can be iterated
    raise TypeError(f"`view_column` {view_column!r} holds {type(value).__name__}, not a list of images.")


def class_number(label: object) -> int:
    """The class number in a label, an integer of Python, NumPy or torch; -1 if it is none."""
    try:
        number = operator.index(label)  # type: ignore[arg-type] # whatever a row holds
    except TypeError:
        return -1
    return number if 0 <= number < 2**63 else -1
