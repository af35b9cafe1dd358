"""MultiCropTransform: one image -> global and local crops, with the random numbers of the photometric operations."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch.nn import functional as F

from ..system.number_range import whole
from .batch import GLOBAL_PHOTOMETRIC, GLOBAL_VIEWS, LOCAL_PHOTOMETRIC, LOCAL_VIEWS, Batch
from .decoding import Encoded, Pixels, load_upright, open_image, stored_size, upright_size
from .photometric import NUM_UNIFORMS
from .view_settings import ViewSettings

_EXACT_BELOW = 64  # pixels; in smaller images a box rounded to whole pixels is another box
_FAST_CHANNELS = 4
_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop; then the largest centred region of an allowed aspect ratio


def random_boxes(
    rng: np.random.Generator, num_boxes: int, width: int, height: int, scale: ArrayLike, aspect_ratio: list[float]
) -> np.ndarray:
    """
    Draw regions to cut, distributed as in torchvision's `RandomResizedCrop` but not rounded to whole pixels, which
    matters for tiny images.

    `scale` is the smallest and largest share of the image area, for all boxes or for each (`(num_boxes, 2)`);
    `aspect_ratio` the smallest and largest width over height, drawn log-uniformly. Returns `(num_boxes, 4)`: left,
    upper, right, lower in pixels.
    """
    smallest, largest = np.broadcast_to(scale, (num_boxes, 2)).T[:, :, None]
    area = rng.uniform(smallest, largest, (num_boxes, _ATTEMPTS)) * width * height
    ratio = np.exp(rng.uniform(np.log(aspect_ratio[0]), np.log(aspect_ratio[1]), (num_boxes, _ATTEMPTS)))
    widths, heights = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (widths <= width) & (heights <= height)
    first = fits.argmax(1)
    rows = np.arange(num_boxes)
    widths, heights, found = widths[rows, first], heights[rows, first], fits[rows, first]
    fallback = np.clip(width / height, aspect_ratio[0], aspect_ratio[1])
    whole_width, whole_height = min(width, height * fallback), min(height, width / fallback)
    widths, heights = np.where(found, widths, whole_width), np.where(found, heights, whole_height)
    place = np.where(found[:, None], rng.uniform(size=(num_boxes, 2)), 0.5)
    left, upper = place[:, 0] * (width - widths), place[:, 1] * (height - heights)
    return np.stack([left, upper, left + widths, upper + heights], 1)


@dataclass(frozen=True)
class MultiCropTransform(ViewSettings):
    """
    Cuts the views of an image. With an epoch or index everything random follows from `(seed, epoch, index)` alone, as
    in [`LeJEPATrainer`], whose rows have both. Without them each call draws new views from torch's global generator:
    they are repeated after `torch.manual_seed`, and differ between the workers of a `DataLoader`.

    Crops are uint8, flipped vertically and rotated already. The random numbers for horizontal flip, colours, blur and
    solarisation are drawn here; these operations and the normalisation are applied to the batch on the device, by
    [`~data.photometric.apply_photometric`].

    Args:
        seed (`int`, *optional*, defaults to 0): Seed of the run, in [0, 2^32), for calls with an epoch or index. The
            other fields are those of [`ViewSettings`].

    Example:

    ```python
    >>> from PIL import Image
    >>> from lejepa_hf import MultiCropTransform

    >>> views = MultiCropTransform(local_crop_size=96)(Image.new("RGB", (640, 480)))
    >>> tuple(views["local_views"].shape)
    (6, 3, 96, 96)
    ```
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(0, 2**32 - 1).check("seed", self.seed)

    @classmethod
    def from_settings(cls, settings: ViewSettings, seed: int) -> "MultiCropTransform":
        """A transform with these settings."""
        return cls(**{item.name: vars(settings)[item.name] for item in fields(ViewSettings)}, seed=seed)

    def __call__(
        self, image: "Encoded | tuple[Encoded, ...]", epoch: int | None = None, index: int | None = None
    ) -> Batch:
        """
        Cut the views of an image.

        Args:
            image: Anything that [`~data.decoding.open_image`] takes; or a tuple of several images of one object, of
                which each view takes one: all of them in a random order, from the first one again if there are more
                views.
            epoch (`int`, *optional*): Pass over the data; the next one gives other views. 0 if only `index` is given.
            index (`int`, *optional*): The image's number in the dataset, or a hash of its bytes. 0 if only `epoch` is
                given. Without both, each call gives other views.

        Returns:
            [`~data.batch.Batch`] without its first axis; C is the length of `image_mean`.

        Raises:
            One of [`~data.decoding.DECODING_ERRORS`]: If the image cannot be decoded, or has not C channels.
        """
        images = image if isinstance(image, tuple) else (image,)
        if not images:
            raise ValueError("The list of images is empty.")
        rng = np.random.Generator(np.random.Philox(key=self._key(epoch, index)))
        numbers = [self.num_global_views, self.num_local_views]
        total = sum(numbers)
        # The image of each view. Nothing is drawn for a single one, whose views are those of earlier versions.
        source = np.resize(rng.permutation(len(images)), total) if len(images) > 1 else np.zeros(total, dtype=int)
        opened = {number: self._open(images[number]) for number in np.unique(source).tolist()}
        # One call for all views: for tiny images the calls cost more than the pixels.
        scale = np.repeat([self.global_crop_scale, self.local_crop_scale], numbers, axis=0)
        boxes = np.empty((total, 4))
        for number, one in opened.items():
            own = source == number
            boxes[own] = random_boxes(rng, own.sum(), *upright_size(one), scale[own], self.crop_aspect_ratio)
        uniforms = torch.from_numpy(rng.random((total, NUM_UNIFORMS), dtype=np.float32)).split(numbers)
        orientations = self._orientations(rng, total)
        sides = np.repeat([self.global_crop_size, self.local_crop_size], numbers)
        crops: dict[int, torch.Tensor] = {}
        for number, one in opened.items():
            places = np.flatnonzero(source == number)
            for place, crop in zip(places.tolist(), self._crops(one, boxes[places], sides[places]), strict=True):
                crops[place] = _oriented(crop, orientations[place]).expand(self.num_channels, -1, -1)
        ordered = [crops[place] for place in range(total)]
        views: Batch = {GLOBAL_VIEWS: stack_channels_last(ordered[: numbers[0]]), GLOBAL_PHOTOMETRIC: uniforms[0]}
        if self.num_local_views:
            views |= {LOCAL_VIEWS: stack_channels_last(ordered[numbers[0] :]), LOCAL_PHOTOMETRIC: uniforms[1]}
        return views

    def _open(self, image: Encoded) -> Pixels:
        return open_image(image, self.num_channels, self.pixel_range, self.max_image_pixels)

    def _crops(self, opened: Pixels, boxes: np.ndarray, sides: np.ndarray) -> Iterator[torch.Tensor]:
        """[`_cut`] of regions of an image that was only opened."""
        # The boxes are known before the pixels: decode no finer than the crop that shrinks least.
        reduction = int((np.minimum(*(boxes[:, 2:] - boxes[:, :2]).T) / sides).min())
        width, height = upright_size(opened)
        loaded = load_upright(opened, reduction, self.num_channels, self.pixel_range)
        loaded_width, loaded_height = stored_size(loaded)
        return _cut(loaded, boxes * np.tile([loaded_width / width, loaded_height / height], 2), sides)

    def generator(self, epoch: int | None = None, index: int | None = None) -> np.random.Generator:
        """
        Random numbers for what a subclass does to the views of an image, others than those that cut them.

        Args:
            epoch (`int`, *optional*): That of the call that cut the views.
            index (`int`, *optional*): That of the call; without both, each call gives other numbers.
        """
        return np.random.Generator(np.random.Philox(key=self._key(epoch, index)).jumped())

    def _orientations(self, rng: np.random.Generator, number: int) -> list[tuple[bool, int]]:
        """
        For each view, whether it is turned upside down by a flip, and then by how many quarters it is rotated. Drawn
        after all other numbers, and only if wanted: the others are those of earlier versions.
        """
        if not (self.vertical_flip_probability or self.rotate90_probability):
            return [(False, 0)] * number
        flip, rotate, angle = rng.random((3, number))
        quarters = np.where(rotate < self.rotate90_probability, (4 * angle).astype(int), 0)
        return list(zip((flip < self.vertical_flip_probability).tolist(), quarters.tolist(), strict=True))

    def _key(self, epoch: int | None, index: int | None) -> list[int]:
        """The two numbers that fix the views of an image."""
        if epoch is None and index is None:
            return torch.randint(2**63 - 1, (2,)).tolist()
        return [self.seed << 32 | (epoch or 0), index or 0]


def stack_channels_last(images: list[torch.Tensor]) -> torch.Tensor:
    """`torch.stack` of (..., C, H, W) for images that lie channels last, without turning their memory over."""
    return torch.stack([image.movedim(-3, -1) for image in images]).movedim(-1, -3)


def _oriented(crop: torch.Tensor, orientation: tuple[bool, int]) -> torch.Tensor:
    """A crop (C, H, W) flipped from top to bottom, then rotated by this many quarters, anticlockwise."""
    is_flipped, quarters = orientation
    crop = crop.flip(-2) if is_flipped else crop
    return crop.rot90(quarters, (-2, -1)) if quarters else crop


def _cut(image: Image.Image | np.ndarray, boxes: np.ndarray, sides: np.ndarray) -> Iterator[torch.Tensor]:
    """Regions of an image, each at its own size: uint8 `(its channels, side, side)`, channels last in memory."""
    width, height = stored_size(image)
    if min(width, height) < _EXACT_BELOW:
        # PIL's own images of two and four channels have transparency in them, by which it weights the others.
        bands = [image] if isinstance(image, Image.Image) else list(map(Image.fromarray, np.moveaxis(image, -1, 0)))
        for side, box in zip(sides.tolist(), boxes.tolist(), strict=True):
            small = [np.array(band.resize((side, side), Image.Resampling.BICUBIC, box=box)) for band in bands]
            pixels = torch.from_numpy(small[0] if len(small) == 1 else np.dstack(small))
            yield pixels.reshape(side, side, -1).permute(2, 0, 1)
        return
    # Torch resizes 8-bit images that lie channels last four to five times as fast as PIL, to the same values within
    # rounding, but only from whole pixels on.
    pixels = torch.from_numpy(np.array(image)).reshape(1, height, width, -1)
    # More than four channels at once take a path of torch that is slower than all of them in parts.
    parts = [part.contiguous().permute(0, 3, 1, 2) for part in pixels.split(_FAST_CHANNELS, -1)]
    corners = boxes.round().astype(int)
    for side, (left, upper, right, lower) in zip(sides.tolist(), corners.tolist(), strict=True):
        rows, columns = slice(upper, max(lower, upper + 1)), slice(left, max(right, left + 1))
        cut = [
            F.interpolate(part[:, :, rows, columns], (side, side), mode="bicubic", antialias=True) for part in parts
        ]
        yield (cut[0] if len(cut) == 1 else torch.cat(cut, 1))[0]
