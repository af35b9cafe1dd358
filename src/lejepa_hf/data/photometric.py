"""
Flip, jitter, gray, blur, solarise: random numbers come with each view, everything else is batched on the device; on
CUDA in a few kernels if the crops are RGB ([`ops.photometric_triton`]).

Each operation computes the same as torchvision's functional one on float images in [0, 1], with one parameter a view.
It is written here because on one CPU thread torchvision v2 took 3.7 to 4.8 times as long a view, kornia 3.5 to 6.7
times, at 224 and 98 px: `python benchmarks/benchmark_photometric.py`.
"""

import math
from collections.abc import Mapping
from functools import partial
from itertools import permutations
from types import ModuleType

import torch
from torch.nn import functional as F

from ..ops import dispatch
from .batch import VIEW_KEYS, tensors_of_views
from .view_settings import ViewSettings

# Columns of a view's parameters. The value in brackets leaves the view as it is.
FLIP, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GRAY, BLUR_SIGMA, SOLARIZE = range(9)  # 0 1 1 1 0 any 0 0 2
NUM_PARAMETERS = 9
NUM_UNIFORMS = 11  # happens: flip, jitter, gray, blur, solarise; amounts: four jitters, their order, sigma
_IDENTITY = (0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0)
_ORDERS = list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))
_OF_COLOURS = [SATURATION, HUE, GRAY]  # without meaning if the channels are not red, green and blue
_LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as PIL and torchvision

# Values that a CPU works on at once, so that they stay in its caches from one operation to the next. Larger views go
# one by one: gathering those that an operation changes would cost more than another call.
_SMALL_VIEW = 1 << 15
_CPU_CHUNK = 1 << 19


def parameters_from_uniforms(uniforms: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """Random numbers `(N, NUM_UNIFORMS)` in [0, 1) -> parameters `(N, NUM_PARAMETERS)`, fp32, on the host."""
    flip, jitter, gray, blur, solarize, *amounts, order, sigma = uniforms.float().unbind(1)
    parameters = torch.tensor(_IDENTITY).repeat(len(uniforms), 1)
    parameters[:, FLIP] = (flip < settings.horizontal_flip_probability).float()
    jittered = (jitter < settings.color_jitter_probability).float()
    ranges = (settings.brightness_jitter, settings.contrast_jitter, settings.saturation_jitter, settings.hue_jitter)
    for column, spread, amount in zip((BRIGHTNESS, CONTRAST, SATURATION, HUE), ranges, amounts, strict=True):
        parameters[:, column] += spread * (2 * amount - 1) * jittered
    parameters[:, ORDER] = (order * len(_ORDERS)).floor()
    parameters[:, GRAY] = (gray < settings.grayscale_probability).float()
    low, high = settings.blur_sigma
    parameters[:, BLUR_SIGMA] = (low + (high - low) * sigma) * (blur < settings.blur_probability)
    parameters[solarize < settings.solarize_probability, SOLARIZE] = settings.solarize_threshold / 255
    return parameters


def _per_view(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)


def luminance(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), ITU-R 601-2."""
    red, green, blue = images.split(1, 1)
    return (_LUMINANCE[0] * red).add_(green, alpha=_LUMINANCE[1]).add_(blue, alpha=_LUMINANCE[2])


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale towards black; images `(N, C, H, W)` in [0, 1], factor `(N,)`."""
    return (images * _per_view(factor)).clamp_(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the mean luminance, or the mean if there are not 3 channels; images and factor as above."""
    mean = images.mean((2, 3), keepdim=True)
    mean = luminance(mean) if images.shape[1] == 3 else mean.mean(1, keepdim=True)
    factor = _per_view(factor)
    return (images * factor).add_(mean * (1 - factor)).clamp_(0, 1)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the luminance; images `(N, 3, H, W)` in [0, 1], factor `(N,)`."""
    return torch.lerp(luminance(images), images, _per_view(factor)).clamp_(0, 1)


def adjust_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """
    Turn the colour circle by `shift` turns, through HSV; images `(N, 3, H, W)` in [0, 1], shift `(N,)`.

    Selecting by the largest channel and dividing by the chroma would cost more than all the rest: here minima replace
    the cases, and hues stay multiplied by the chroma, from -3 to 3 times it, with red at 0.
    """
    red, green, blue = images.split(1, 1)
    high, low = torch.maximum(green, blue), torch.minimum(green, blue)
    value, least = torch.maximum(red, high), torch.minimum(red, low)
    chroma = value - least
    # The distance from red: the second term where red is the largest channel, the first one elsewhere.
    hue = torch.minimum((low - red).add_(chroma, alpha=2), (high - low).add_(value - red, alpha=3))
    hue.copysign_(green - blue)
    # Channel n of HSV in closed form: V - C * clamp(| |H + offset| - 3 | - 1, 0, 1), for offsets in [-3, 3).
    offsets = (6 * shift[:, None] + torch.arange(6, 0, -2, device=images.device)) % 6 - 3
    turned = torch.addcmul(hue, chroma, offsets[:, :, None, None]).abs_().sub_(chroma, alpha=3).abs_()
    return torch.sub(value + chroma, turned, out=turned).clamp_(least, value)


_JITTERS = (
    (BRIGHTNESS, adjust_brightness),
    (CONTRAST, adjust_contrast),
    (SATURATION, adjust_saturation),
    (HUE, adjust_hue),
)


def color_jitter(images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Apply the adjustments in each view's own order, in place; images `(N, 3, H, W)`, parameters on the host."""
    return images.copy_(_apply(_JITTERS * 4, images, parameters, _jittered(parameters)))


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Blur with sigma `(N,)` pixels, reflecting at the border; images `(N, C, H, W)`, an odd number of taps."""
    reach = kernel_size // 2
    taps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]).square())
    kernel /= kernel.sum(1, keepdim=True)
    weights = kernel[:, :, None, None, None].unbind(1)
    blurred = F.pad(images, [reach, reach, reach, reach], mode="reflect")
    # On one core, a banded matrix product and a depthwise convolution took two to four times as long at 224 px.
    for dimension in (-2, -1):
        length = images.shape[dimension]
        total = weights[0] * blurred.narrow(dimension, 0, length)
        for start, weight in enumerate(weights[1:], 1):
            total.addcmul_(blurred.narrow(dimension, start, length), weight)
        blurred = total
    return blurred


def solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Invert values from the threshold on; images `(N, C, H, W)` in [0, 1], threshold `(N,)`."""
    inverted = torch.ge(images, _per_view(threshold), out=torch.empty_like(images))  # 0 or 1, quicker than selecting
    return torch.sub(images, inverted, out=inverted).abs_()


def _jittered(parameters: torch.Tensor) -> torch.Tensor:
    """(N, 16): for each of the four places in the order, whether a view gets each of the adjustments there."""
    columns = torch.tensor([column for column, _ in _JITTERS])
    orders = torch.tensor(_ORDERS)[parameters[:, ORDER].long()]  # (N, 4): the adjustment at each place
    changes = parameters[:, columns] != torch.tensor(_IDENTITY)[columns]
    return ((orders[:, :, None] == columns) & changes[:, None]).flatten(1)


def _apply(steps: tuple, images: torch.Tensor, parameters: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """
    Apply one operation after the other, each to the views that it changes. These are known on the host: nothing waits
    for the device.

    `steps` are pairs of a column of `parameters` and an operation on images and its values; `chosen` `(N, len(steps))`
    says which views change. Images `(N, C, H, W)` may be overwritten, and end with one channel if all are grey.
    """
    counts = chosen.sum(0).tolist()
    rows = chosen.T.nonzero()[:, 1].to(images.device, non_blocking=True).split(counts)
    amounts = parameters.to(images.device, non_blocking=True).unbind(1)
    for (column, operation), own, count in zip(steps, rows, counts, strict=True):
        if count == 0:
            continue
        if count == len(parameters):
            images = operation(images, amounts[column])
        else:
            changed = operation(images.index_select(0, own), amounts[column].index_select(0, own))
            images.index_copy_(0, own, changed.expand(-1, images.shape[1], -1, -1))
    return images


def photometric(views: torch.Tensor, uniforms: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """
    Turn uint8 crops into the pixels that a network sees: all operations, then the normalisation.

    Args:
        views (`torch.Tensor` of shape `(B, V, C, H, W)`): uint8 crops; C is the length of `image_mean`.
        uniforms (`torch.Tensor` of shape `(B, V, NUM_UNIFORMS)`): Drawn from [0, 1) for each view; best on the host.
        settings ([`ViewSettings`]): Probabilities and ranges, blur kernel, mean and standard deviation.

    Returns:
        `torch.Tensor`: fp32, normalised, of the same shape.

    Raises:
        ValueError: If views, random numbers and settings do not belong together, or views are too small for the blur.
    """
    if views.dtype != torch.uint8:
        raise ValueError(f"`views` must be uint8 crops as from `MultiCropTransform`, got {views.dtype}.")
    if views.shape[2] != settings.num_channels:
        found, wanted = views.shape[2], f"`image_mean` and `image_std` are for {settings.num_channels}"
        raise ValueError(f"`views` have {found} channels, but {wanted}: cut and normalise with the same settings.")
    shape = (*views.shape[:2], NUM_UNIFORMS)
    if uniforms.shape != shape:
        raise ValueError(f"`uniforms` must have shape {shape} for these `views`, got {tuple(uniforms.shape)}.")
    crops, device = views.flatten(0, 1), views.device
    parameters = parameters_from_uniforms(uniforms.flatten(0, 1).cpu(), settings)
    if settings.num_channels != 3:
        parameters[:, _OF_COLOURS] = torch.tensor(_IDENTITY)[_OF_COLOURS]
    reach = settings.blur_kernel_size // 2
    if reach >= min(crops.shape[-2:]) and (parameters[:, BLUR_SIGMA] > 0).any():
        size, pixels = settings.blur_kernel_size, f"{crops.shape[-2]} x {crops.shape[-1]} pixels"
        raise ValueError(f"`blur_kernel_size` must be less than twice a side of the `views`, got {size} for {pixels}.")
    kernels = fused_kernels(device, settings)
    result = fused(kernels, crops, parameters, settings) if kernels else one_by_one(crops, parameters, settings)
    return result.unflatten(0, views.shape[:2])


def fused_kernels(device: torch.device, settings: ViewSettings) -> ModuleType | None:
    """The kernels that `photometric` uses on a device, or None if it computes the operations one by one."""
    if settings.num_channels != 3:
        return None
    return dispatch.photometric_kernels(device, settings.blur_kernel_size, _trial)


def one_by_one(crops: torch.Tensor, parameters: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """Each operation on the crops that it changes; crops `(N, C, H, W)`, parameters on the host."""
    steps = (
        (FLIP, lambda images, _: images.flip(-1)),
        *_JITTERS * 4,
        (GRAY, lambda images, _: luminance(images)),
        (BLUR_SIGMA, partial(gaussian_blur, kernel_size=settings.blur_kernel_size)),
        (SOLARIZE, solarize),
    )
    changes = parameters != torch.tensor(_IDENTITY)
    chosen = torch.cat([changes[:, [FLIP]], _jittered(parameters), changes[:, [GRAY, BLUR_SIGMA, SOLARIZE]]], 1)
    of_channels = settings.image_mean, settings.image_std
    mean, std = (torch.tensor(values)[:, None, None].to(crops.device, non_blocking=True) for values in of_channels)
    result = torch.empty(crops.shape, device=crops.device)
    size = max(1, len(crops))  # a GPU takes all views at once
    if crops.device.type == "cpu":
        values = crops.shape[1:].numel()
        size = 1 if values > _SMALL_VIEW else _CPU_CHUNK // values
    chunks = zip(*(rows.split(size) for rows in (result, crops, parameters, chosen)), strict=True)
    for chunk, pixels, amounts, happens in chunks:
        chunk.copy_(torch.stack(pixels.unbind(1), 1)).div_(255)  # channels come first while they are still bytes
        images = _apply(steps, chunk, amounts, happens)
        torch.sub(images, mean, out=chunk).div_(std)
    return result


def fused(kernels: ModuleType, crops: torch.Tensor, parameters: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """The same in a few kernels, for crops of three channels."""
    orders = (torch.tensor(_ORDERS) - BRIGHTNESS)[parameters[:, ORDER].long()]
    mean, std = settings.image_mean, settings.image_std
    return kernels.photometric(crops, parameters, orders, settings.blur_kernel_size, mean, std)


def _trial(kernels: ModuleType, device: torch.device, num_taps: int) -> None:
    """Raises an error if the kernels do not agree with the operations on a sample."""
    settings, generator = ViewSettings(blur_kernel_size=num_taps), torch.Generator().manual_seed(0)
    side = max(32, 16 * math.ceil(num_taps / 16))  # sides that 16 divides are a kernel of their own
    for height, width in ((side, side + 16), (side + 1, side + 2)):
        pixels = torch.randint(256, (16, height, width, 3), dtype=torch.uint8, generator=generator)
        crops = pixels.to(device).movedim(-1, 1)
        parameters = parameters_from_uniforms(torch.rand(16, NUM_UNIFORMS, generator=generator), settings)
        parameters[:8, SOLARIZE] = _IDENTITY[SOLARIZE]
        expected = one_by_one(crops, parameters, settings)
        agrees = (fused(kernels, crops, parameters, settings) - expected).abs() <= 1e-3  # False for NaN
        # A value on the threshold of solarisation within rounding is inverted by one and not by the other.
        if not (agrees[:8].all() and agrees.float().mean() > 0.99):
            raise AssertionError(f"{1 - agrees.float().mean():.1%} of the values differ")


def apply_photometric(
    batch: Mapping[str, object], settings: ViewSettings, device: torch.device | str | None = None
) -> dict[str, torch.Tensor]:
    """
    A batch from [`MultiCropCollator`] -> the arguments of [`LeJEPAForPreTraining`], as in
    `model(**apply_photometric(batch, transform))`. The Trainer does this itself.

    Args:
        batch ([`~data.batch.Batch`]): Views and their random numbers.
        settings ([`ViewSettings`]): Probabilities and ranges of the operations; the transform that cut the views.
        device (`torch.device` or `str`, *optional*): Where to compute, usually the device of the model; that of the
            views if missing.

    Returns:
        `dict[str, torch.Tensor]`: `global_views` and, if there are any, `local_views`, fp32 and normalised.

    Raises:
        ValueError: If views and settings do not belong together, or the batch has no views or no random numbers.
    """
    tensors = tensors_of_views(batch)
    kinds = [keys for keys in VIEW_KEYS.values() if keys[0] in tensors]
    missing = [key for keys in kinds or [VIEW_KEYS["global"]] for key in keys if key not in tensors]
    if missing:
        raise ValueError(
            f"`batch` has no {missing[0]!r}, but {', '.join(map(str, batch)) or 'nothing'}: make it with a "
            "`MultiCropCollator`."
        )
    return {
        views: photometric(tensors[views].to(device, non_blocking=True), tensors[uniforms], settings)
        for views, uniforms in kinds
    }
