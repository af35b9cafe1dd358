"""MultiCropTransform: one image -> global and local crops, with the random numbers of the photometric operations."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from PIL import Image

from .decoding import decode_image
from .photometric import NUM_UNIFORMS
from .view_settings import ViewSettings

_ATTEMPTS = 10  # as torchvision's RandomResizedCrop: then the largest centred region of an allowed aspect ratio


def random_boxes(
    rng: np.random.Generator,
    num_boxes: int,
    width: int,
    height: int,
    scale: list[float] | np.ndarray,
    aspect_ratio: list[float],
) -> np.ndarray:
    """
    Regions to cut, distributed as torchvision's `RandomResizedCrop` but not rounded to whole pixels, which matters
    where images are tiny.

    Args:
        rng (`np.random.Generator`): Source of randomness.
        num_boxes (`int`): How many.
        width (`int`): Image width in pixels.
        height (`int`): Image height in pixels.
        scale (`list[float]` or `np.ndarray` of shape `(num_boxes, 2)`): Smallest and largest share of the image area,
            for all boxes or for each.
        aspect_ratio (`list[float]`): Smallest and largest width over height, drawn log-uniformly.

    Returns:
        `np.ndarray` of shape `(num_boxes, 4)`: left, upper, right, lower in pixels.
    """
    smallest, largest = np.broadcast_to(scale, (num_boxes, 2)).T[:, :, None]
    area = rng.uniform(smallest, largest, (num_boxes, _ATTEMPTS)) * width * height
    ratio = np.exp(rng.uniform(np.log(aspect_ratio[0]), np.log(aspect_ratio[1]), (num_boxes, _ATTEMPTS)))
    widths, heights = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (widths <= width) & (heights <= height)
    first = fits.argmax(1)
    rows = np.arange(num_boxes)
    widths, heights, found = widths[rows, first], heights[rows, first], fits[rows, first]
    fallback = np.clip(width / height, *aspect_ratio)
    whole_width, whole_height = min(width, height * fallback), min(height, width / fallback)
    widths, heights = np.where(found, widths, whole_width), np.where(found, heights, whole_height)
    place = np.where(found[:, None], rng.uniform(size=(num_boxes, 2)), 0.5)
    left, upper = place[:, 0] * (width - widths), place[:, 1] * (height - heights)
    return np.stack([left, upper, left + widths, upper + heights], 1)


@dataclass
class MultiCropTransform(ViewSettings):
    """
    Cuts the views of an image. Everything random follows from `(seed, epoch, index)` alone.

    Crops come out as uint8; what is left to do, flip, colours, blur, solarise and normalise, gets its random numbers
    here and is done by [`~data.photometric.apply_photometric`] for the whole batch on the device.

    Args:
        seed (`int`, *optional*, defaults to 0): Seed of the run; the other fields are those of [`ViewSettings`].

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

    @classmethod
    def from_settings(cls, settings: ViewSettings, seed: int) -> "MultiCropTransform":
        """The transform with these settings."""
        return cls(**{item.name: getattr(settings, item.name) for item in fields(ViewSettings)}, seed=seed)

    def __call__(self, image, epoch: int = 0, index: int = 0) -> dict[str, torch.Tensor]:
        """
        Args:
            image: Anything [`~data.decoding.decode_image`] takes.
            epoch (`int`, *optional*, defaults to 0): Pass over the data; the next one gives other views.
            index (`int`, *optional*, defaults to 0): The image's number in the dataset, or a hash of its bytes.

        Returns:
            `dict[str, torch.Tensor]`: `global_views` uint8 `(num_global_views, 3, H, W)`, `local_views` uint8
            `(num_local_views, 3, h, w)`, and for each kind `*_photometric`, fp32 `(num_views, NUM_UNIFORMS)`.
        """
        image = decode_image(image)
        rng = np.random.Generator(np.random.Philox(key=[self.seed << 32 | epoch, index]))
        kinds = [("global", self.num_global_views), ("local", self.num_local_views)]
        numbers = [number for _, number in kinds]
        # One call for all views: for tiny images the calls cost more than the pixels.
        scale = np.repeat([self.global_crop_scale, self.local_crop_scale], numbers, axis=0)
        boxes = random_boxes(rng, sum(numbers), *image.size, scale, self.crop_aspect_ratio).tolist()
        uniforms = torch.from_numpy(rng.random((sum(numbers), NUM_UNIFORMS), dtype=np.float32)).split(numbers)
        views = {}
        for (kind, number), of_kind in zip(kinds, uniforms, strict=True):
            if number:
                own_boxes, boxes = boxes[:number], boxes[number:]
                views[f"{kind}_views"] = _cut(image, own_boxes, getattr(self, f"{kind}_crop_size"))
                views[f"{kind}_photometric"] = of_kind
        return views


def _cut(image: Image.Image, boxes: list[list[float]], size: int) -> torch.Tensor:
    """Regions of an image at one size: uint8 `(num_boxes, 3, size, size)`, channels last in memory."""
    crops = np.empty((len(boxes), size, size, 3), dtype=np.uint8)
    for crop, box in zip(crops, boxes, strict=True):
        cut = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
        crop[...] = cut if cut.ndim == 3 else cut[:, :, None]
    return torch.from_numpy(crops).permute(0, 3, 1, 2)
