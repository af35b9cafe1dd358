"""Masks for segmentation: whatever a row holds -> a class number for each pixel."""

import os

import numpy as np
from PIL import Image

from .decoding import Encoded, check_size, open_image
from .file_values import values_in_file
from .pixel_arrays import is_npy, read_npy
from .stored_numbers import told_by

_ANY_RANGE = [0.0, 1.0]  # of values that are not scaled in the end


def decode_mask(value: Encoded, max_image_pixels: int | None = None) -> np.ndarray:
    """
    Decode a mask into class numbers: int64 of shape `(height, width)`. It is whatever [`~data.decoding.open_image`]
    takes: an image of one channel or with a palette, whose numbers in the file are the classes; an image in the
    colours of PASCAL VOC; or an array of two axes.
    """
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if is_npy(value) and (isinstance(value, bytes) or os.path.isfile(value)):
        value = read_npy(value)  # class numbers, which are not scaled as pixels are
    if isinstance(value, np.ndarray | list):
        mask = np.asarray(value)
        check_size(mask.size, 1, max_image_pixels)
    else:
        opened = open_image(value, pixel_range=_ANY_RANGE, max_image_pixels=max_image_pixels)
        if isinstance(opened, Image.Image):
            told = told_by(opened)
            numbers = np.asarray(opened.convert("RGB") if opened.mode == "RGBA" else opened)
            mask = numbers if told is None else told.stored(numbers)
        else:  # read by a library, and scaled
            mask = values_in_file(value, 1, max_image_pixels).values.array
    if mask.ndim == 3 and mask.shape[2] == 3:
        return _classes_of_colours(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask must have one class number per pixel, got shape {mask.shape}")
    return mask.astype(np.int64)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask: each pixel gets the class of the nearest one."""
    if mask.shape == (height, width):
        return mask
    image = Image.fromarray(mask.astype(np.int32))
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST)).astype(np.int64)


def _classes_of_colours(mask: np.ndarray) -> np.ndarray:
    if (mask[..., 0] == mask[..., 1]).all() and (mask[..., 0] == mask[..., 2]).all():
        return mask[..., 0].astype(np.int64)  # grey: a mask of one channel, saved as three
    known = _voc_colours()
    order = known.argsort()
    red, green, blue = np.moveaxis(mask.astype(np.int64), -1, 0)
    codes = red << 16 | green << 8 | blue
    found = order[np.searchsorted(known, codes, sorter=order).clip(max=255)]
    unknown = mask[known[found] != codes]
    if len(unknown):
        raise ValueError(f"the mask's colour {tuple(unknown[0].tolist())} is not a class of PASCAL VOC")
    return found


def _voc_colours() -> np.ndarray:
    """
    The colours, 0xRRGGBB, of 256 classes as in the development kit of PASCAL VOC 2012: the bits of a class number,
    three at a time from the lowest, are those of red, green and blue from the highest. 255, the border of objects, is
    (224, 224, 192).
    """
    classes = np.arange(256)
    colours = np.zeros(256, np.int64)
    for bit in range(8):
        place, channel = divmod(bit, 3)
        colours |= (classes >> bit & 1) << (23 - 8 * channel - place)
    return colours
