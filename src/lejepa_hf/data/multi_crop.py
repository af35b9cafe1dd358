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
    smallest, largest = np.asarray(scale, dtype=float).reshape(-1, 2, 1).swapaxes(0, 1)
    area = (smallest + (largest - smallest) * rng.random((num_boxes, _ATTEMPTS))) * width * height
    flattest, widest = np.log(aspect_ratio[0]), np.log(aspect_ratio[1])
    ratio = np.exp(flattest + (widest - flattest) * rng.random((num_boxes, _ATTEMPTS)))
    widths, heights = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (widths <= width) & (heights <= height)
    rows, first = np.arange(num_boxes), fits.argmax(1)
    widths, heights, found = widths[rows, first], heights[rows, first], fits[rows, first]
    place = rng.random((num_boxes, 2))
    if not found.all():
        fallback = min(max(width / height, aspect_ratio[0]), aspect_ratio[1])
        widths[~found], heights[~found] = min(width, height * fallback), min(height, width / fallback)
        place[~found] = 0.5
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
        # The views of each image; nothing is drawn for a single one, whose views are those of earlier versions.
        own: dict[int, np.ndarray] = {0: np.arange(total)}
        if len(images) > 1:
            source = np.resize(rng.permutation(len(images)), total)
            own = {number: np.flatnonzero(source == number) for number in np.unique(source).tolist()}
        opened = {number: self._open(images[number]) for number in own}
        # One call for all views: for tiny images the calls cost more than the pixels.
        scale = np.array([self.global_crop_scale] * numbers[0] + [self.local_crop_scale] * numbers[1])
        boxes = np.empty((total, 4))
        for number, one in opened.items():
            places = own[number]
            size = upright_size(one)
            boxes[places] = random_boxes(rng, len(places), *size, scale[places], self.crop_aspect_ratio)
        uniforms = torch.from_numpy(rng.random((total, NUM_UNIFORMS), dtype=np.float32))
        orientations = self._orientations(rng, total)
        sides = np.array([self.global_crop_size] * numbers[0] + [self.local_crop_size] * numbers[1])
        crops: dict[int, np.ndarray] = {}
        for number, one in opened.items():
            places = own[number]
            for place, crop in zip(places.tolist(), self._crops(one, boxes[places], sides[places]), strict=True):
                crops[place] = _oriented(crop, orientations[place])
        ordered = [crops[place] for place in range(total)]
        views: Batch = {
            GLOBAL_VIEWS: self._stacked(ordered[: numbers[0]]), GLOBAL_PHOTOMETRIC: uniforms[: numbers[0]],
        }  # fmt: skip
        if self.num_local_views:
            views |= {
                LOCAL_VIEWS: self._stacked(ordered[numbers[0] :]), LOCAL_PHOTOMETRIC: uniforms[numbers[0] :],
            }  # fmt: skip
        return views

    def _stacked(self, crops: list[np.ndarray]) -> torch.Tensor:
        """Crops (H, W, C), C perhaps 1 for all channels -> (V, C, H, W), channels last in memory."""
        stacked = np.stack(crops)
        if stacked.shape[-1] != self.num_channels:  # greyscale
            stacked = stacked.repeat(self.num_channels, -1)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    def _open(self, image: Encoded) -> Pixels:
        return open_image(image, self.num_channels, self.pixel_range, self.max_image_pixels)

    def _crops(self, opened: Pixels, boxes: np.ndarray, sides: np.ndarray) -> Iterator[np.ndarray]:
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


def _oriented(crop: np.ndarray, orientation: tuple[bool, int]) -> np.ndarray:
    """A crop (H, W, C) flipped from top to bottom, then rotated by this many quarters, anticlockwise."""
    is_flipped, quarters = orientation
    crop = crop[::-1] if is_flipped else crop
    return np.rot90(crop, quarters) if quarters else crop


def _cut(image: Image.Image | np.ndarray, boxes: np.ndarray, sides: np.ndarray) -> Iterator[np.ndarray]:
    """Regions of an image, each at its own size: uint8 `(side, side, its channels)`."""
    width, height = stored_size(image)
    if min(width, height) < _EXACT_BELOW:
        # PIL's own images of two and four channels have transparency in them, by which it weights the others.
        bands = [image] if isinstance(image, Image.Image) else list(map(Image.fromarray, np.moveaxis(image, -1, 0)))
        for side, box in zip(sides.tolist(), boxes.tolist(), strict=True):
            small = [np.asarray(band.resize((side, side), Image.Resampling.BICUBIC, box=box)) for band in bands]
            yield (small[0] if len(small) == 1 else np.dstack(small)).reshape(side, side, -1)
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
        yield (cut[0] if len(cut) == 1 else torch.cat(cut, 1))[0].permute(1, 2, 0).numpy()
