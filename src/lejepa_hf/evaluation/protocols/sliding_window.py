"""Segmentation of an image of any size by square windows that overlap."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch.nn import functional as F

_CLASSES = 16  # resized at once: logits of 150 classes for a photograph of 12 megapixels are 7 GB


def window_corners(height: int, width: int, side: int, stride: int) -> list[tuple[int, int]]:
    """
    Upper and left pixels of square windows of `side` pixels that cover an image of at least this size, `stride` pixels
    apart. The last ones of a row and a column are moved back, so that they end where the image ends.
    """
    rows, columns = (
        [min(number * stride, length - side) for number in range(math.ceil((length - side) / stride) + 1)]
        for length in (height, width)
    )
    return [(upper, left) for upper in rows for left in columns]


def average_windows(
    windows: Iterable[torch.Tensor], corners: Sequence[tuple[int, int]], height: int, width: int
) -> torch.Tensor:
    """
    The mean over windows of the logits of each pixel.

    Args:
        windows (`Iterable[torch.Tensor]`): Logits `(num_classes, side, side)` of each window.
        corners (`Sequence[tuple[int, int]]`): Upper and left pixels of the windows, see [`window_corners`].
        height (`int`): Height of the image, which the windows cover.
        width (`int`): Its width.

    Returns:
        `torch.Tensor` of shape `(num_classes, height, width)`.
    """
    total = torch.empty(0)
    number = torch.zeros(height, width)
    for logits, (upper, left) in zip(windows, corners, strict=True):
        if not len(total):
            total, number = logits.new_zeros(len(logits), height, width), number.to(logits)
        rows, columns = slice(upper, upper + logits.shape[1]), slice(left, left + logits.shape[2])
        total[:, rows, columns] += logits
        number[rows, columns] += 1
    return total / number


def classes_at_size(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """
    The class with the largest logit at each pixel, int64 `(height, width)`, after the logits, `(num_classes, rows,
    columns)`, are resized bilinearly.
    """
    best = logits.new_full((height, width), -math.inf)
    found = torch.zeros(height, width, dtype=torch.int64, device=logits.device)
    for first in range(0, len(logits), _CLASSES):
        some = F.interpolate(logits[None, first : first + _CLASSES], size=(height, width), mode="bilinear")[0]
        values, classes = some.max(0)
        found = torch.where(values > best, classes + first, found)
        best = torch.maximum(values, best)
    return found
