"""ViewSettings: how views of an image are cut and coloured."""

from dataclasses import dataclass, field

from ..system.number_range import NumberRange, whole
from .pixel_ranges import PixelRange, ranges_of

MOST_PIXELS = NumberRange(1, is_whole=True, others=(None,))  # what `max_image_pixels` may be
_SHARE = NumberRange(0, 1)
_RANGES = {
    "num_global_views": whole(1, 65536),
    "num_local_views": whole(0, 65536),
    "global_crop_size": whole(1, 16384),
    "local_crop_size": whole(1, 16384),
    **dict.fromkeys(("brightness_jitter", "contrast_jitter", "saturation_jitter"), _SHARE),
    **{f"{name}_probability": _SHARE for name in ("horizontal_flip", "vertical_flip", "rotate90")},
    **{f"{name}_probability": _SHARE for name in ("color_jitter", "grayscale", "blur", "solarize")},
    "hue_jitter": NumberRange(0, 0.5),
    "solarize_threshold": NumberRange(0, 255),
    "max_image_pixels": MOST_PIXELS,
}
# Least and largest number in fields of two; regions beyond these have no pixel in small images.
_INTERVALS = {
    "global_crop_scale": (1e-6, 1.0),
    "local_crop_scale": (1e-6, 1.0),
    "crop_aspect_ratio": (0.01, 100.0),
    "blur_sigma": (1e-6, 1000.0),
}
_OF_CHANNELS = {
    "image_mean": NumberRange(0, 1, way_out="it is for pixels in [0, 1], so divide values for [0, 255] by 255"),
    "image_std": NumberRange(1e-6, 10, way_out="it is for pixels in [0, 1], so divide values for [0, 255] by 255"),
}
_LARGEST_PIXEL = 1e30  # far within the 32-bit floats in which pixels are scaled
_FINEST_RANGE = 1e-6


@dataclass(frozen=True)
class ViewSettings:
    """
    How views of an image are cut and coloured. The defaults are the published ImageNet settings.

    Args:
        num_global_views (`int`): Number of large crops of an image, at least 1. All views predict their mean.
        num_local_views (`int`): Number of small crops of an image, 0 for none.
        global_crop_size, local_crop_size (`int`): Side in pixels of a large and of a small crop, at most
            16384.
        global_crop_scale, local_crop_scale (`list[float]`): Smallest and largest share of the image area in a
            crop, in [1e-6, 1].
        crop_aspect_ratio (`list[float]`): Smallest and largest width over height of the cut region, in
            [0.01, 100].
        horizontal_flip_probability (`float`): Probability of a horizontal flip; 0 for digits, for example.
        vertical_flip_probability (`float`): Probability of a vertical flip, which turns a view upside down; 0.5 for
            images that have no upper side, from microscopes and satellites.
        rotate90_probability (`float`): Probability that a view is rotated by 0, 90, 180 or 270 degrees, each equally
            likely; 1 for images that have no upper side.
        color_jitter_probability (`float`): Probability that brightness, contrast, saturation and hue are changed, all
            four in random order.
        brightness_jitter, contrast_jitter, saturation_jitter (`float`): Largest relative change x: the factor is drawn
            from `[1 - x, 1 + x]`.
        hue_jitter (`float`): Largest shift of the hue in either direction, in turns of the colour circle, at most 0.5.
        grayscale_probability (`float`): Probability that a view loses its colours: all channels become the luminance.
        blur_probability (`float`): Probability of a Gaussian blur.
        blur_sigma (`list[float]`): Smallest and largest standard deviation of the blur in pixels; published codes use
            0.1 and 2.
        blur_kernel_size (`int`): Width of the blur's kernel in pixels, odd; 13 covers three standard deviations of 2.
        solarize_probability (`float`): Probability of solarisation, which inverts bright pixels; drawn once, unlike in
            torchvision.
        solarize_threshold (`int`): Value from which on solarisation inverts pixels, in [0, 255].
        image_mean (`list[float]`): Mean of each channel for pixels in [0, 1], subtracted last. Its length is the
            number of channels of the views: 3 for RGB, 1 for greyscale, others for satellite images, say. Without
            3 channels saturation, hue and grayscale do nothing, and contrast blends with the mean over all of them.
        image_std (`list[float]`): Standard deviation of each channel, by which the difference is divided, in
            [1e-6, 10].
        pixel_range (`list[float]` or `list[list[float]]`, *optional*): Values that become 0 and 255, in files and
            arrays of any type, or such a pair for each channel; others are clipped. 8-bit images are only scaled by a
            range within [0, 255]. If missing, the whole range of 8- and 16-bit integers, [0, 1] for floats and
            [0, 255] for wider integers, which may not lie outside.
        max_image_pixels (`int`, *optional*): Largest width times height of an image, as stored and after an
            evaluation's resize; larger images count as broken. If missing, 89 million, PIL's `MAX_IMAGE_PIXELS`.

    Raises:
        ValueError: If a value is out of range; the message names the field.

    Source: arXiv 2511.08544 and the README of its code; kernel and sigma of the blur are not published.
    """

    num_global_views: int = 2
    num_local_views: int = 6
    global_crop_size: int = 224
    local_crop_size: int = 96
    global_crop_scale: list[float] = field(default_factory=lambda: [0.3, 1.0])
    local_crop_scale: list[float] = field(default_factory=lambda: [0.05, 0.3])
    crop_aspect_ratio: list[float] = field(default_factory=lambda: [0.75, 4 / 3])
    horizontal_flip_probability: float = 0.5
    vertical_flip_probability: float = 0.0
    rotate90_probability: float = 0.0
    color_jitter_probability: float = 0.8
    brightness_jitter: float = 0.4
    contrast_jitter: float = 0.4
    saturation_jitter: float = 0.2
    hue_jitter: float = 0.1
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    blur_kernel_size: int = 13
    solarize_probability: float = 0.2
    solarize_threshold: int = 128
    image_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    image_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    pixel_range: PixelRange | None = None
    max_image_pixels: int | None = None

    def __post_init__(self) -> None:
        for name, accepted in _RANGES.items():
            accepted.check(name, vars(self)[name])
        if self.num_global_views + self.num_local_views < 2:
            raise ValueError("`num_global_views` + `num_local_views` must be at least 2: one view predicts nothing.")
        if self.num_local_views and self.local_crop_size > self.global_crop_size:
            larger = f"{self.local_crop_size} is larger than `global_crop_size` {self.global_crop_size}"
            raise ValueError(f"`local_crop_size` {larger}: swap them, or set `num_local_views: 0`.")
        for name, (low, high) in _INTERVALS.items():
            bounds = vars(self)[name]
            if len(bounds) != 2 or not low <= bounds[0] <= bounds[1] <= high:
                wanted = f"[smallest, largest] with {low:g} <= smallest <= largest <= {high:g}"
                raise ValueError(f"`{name}` must be {wanted}, got {bounds}.")
        smallest = self.local_crop_size if self.num_local_views else self.global_crop_size
        size = self.blur_kernel_size
        if not size > 0 or size % 2 != 1 or (self.blur_probability and size // 2 >= smallest):
            limits = f"must be odd and less than twice the smallest crop, {smallest} pixels"
            raise ValueError(f"`blur_kernel_size` {limits}, got {size}.")
        self._check_channels()

    def _check_channels(self) -> None:
        mean, std = self.image_mean, self.image_std
        if not 0 < len(mean) == len(std):
            raise ValueError(f"`image_mean` and `image_std` must be equally long, got {mean} and {std}.")
        for name, accepted in _OF_CHANNELS.items():
            for value in vars(self)[name]:
                accepted.check(name, value)
        pairs = ranges_of(self.pixel_range or None)
        if not all(map(_is_range, pairs)) or self.pixel_range == []:
            raise ValueError(
                "`pixel_range` must be [low, high] with low < high, which 32-bit floats tell apart, or a list of such "
                f"pairs, got {self.pixel_range}."
            )
        if len(pairs) > 1 and len(pairs) != len(mean):
            raise ValueError(
                f"`pixel_range` has {len(pairs)} pairs, one for each channel, but `image_mean` has {len(mean)} "
                "numbers: they must agree."
            )

    @property
    def num_channels(self) -> int:
        """Channels of the views."""
        return len(self.image_mean)


def _is_range(pair: list[float]) -> bool:
    if not isinstance(pair, list):
        return False
    largest = max(map(abs, pair), default=0)
    is_usable = len(pair) == 2 and largest <= _LARGEST_PIXEL
    return is_usable and pair[1] - pair[0] > max(_FINEST_RANGE * largest, 1 / _LARGEST_PIXEL)
