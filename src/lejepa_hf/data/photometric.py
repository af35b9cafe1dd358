"""
Flip, jitter, gray, blur, solarise: random numbers come with each view, everything else is done batched on the device.

Each operation computes what torchvision's functional one does on float images in [0, 1], with one parameter a view.
"""

from itertools import permutations

import torch
from torch.nn import functional as F

from .view_settings import ViewSettings

# Columns of a view's parameters. The value in brackets leaves the view as it is.
FLIP, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GRAY, BLUR_SIGMA, SOLARIZE = range(9)  # 0 1 1 1 0 any 0 0 2
NUM_PARAMETERS = 9
NUM_UNIFORMS = 11  # happens: flip, jitter, gray, blur, solarise; amounts: four jitters, their order, sigma
_IDENTITY = (0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0)
_ORDERS = list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))
_LUMINANCE = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as PIL and torchvision


def parameters_from_uniforms(uniforms: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """
    Args:
        uniforms (`torch.Tensor` of shape `(N, NUM_UNIFORMS)`): Drawn from [0, 1) for each view, on the host.
        settings ([`ViewSettings`]): Probabilities and ranges.

    Returns:
        `torch.Tensor` of shape `(N, NUM_PARAMETERS)`: fp32, on the host.
    """
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
    return values[:, None, None, None]


def luminance(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), ITU-R 601-2."""
    red, green, blue = images.unbind(1)
    return (_LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue).unsqueeze(1)


def _blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    factor = _per_view(factor)
    return (images * factor + other * (1 - factor)).clamp_(0, 1)


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale towards black; images `(N, 3, H, W)` in [0, 1], factor `(N,)`."""
    return (images * _per_view(factor)).clamp_(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image's mean luminance; images `(N, 3, H, W)` in [0, 1], factor `(N,)`."""
    return _blend(images, luminance(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the luminance; images `(N, 3, H, W)` in [0, 1], factor `(N,)`."""
    return _blend(images, luminance(images), factor)


def adjust_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the colour circle by `shift` turns, through HSV; images `(N, 3, H, W)` in [0, 1], shift `(N,)`."""
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1)
    red, green, blue = images.unbind(1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue / 6 + shift[:, None, None]
    # Channel n of HSV in closed form: V - C * max(0, min(k, 4 - k, 1)) with k = (n + 6 H) mod 6.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device)[None, :, None, None]
    k = (offsets + 6 * hue.unsqueeze(1)) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)


_ADJUST = {
    BRIGHTNESS: adjust_brightness,
    CONTRAST: adjust_contrast,
    SATURATION: adjust_saturation,
    HUE: adjust_hue,
}


def color_jitter(images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """
    The four adjustments in each view's own order.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): In [0, 1]; changed in place.
        parameters (`torch.Tensor` of shape `(N, NUM_PARAMETERS)`): On the host.

    Returns:
        `torch.Tensor`: `images`.
    """
    orders = torch.tensor(_ORDERS)[parameters[:, ORDER].long()]  # (N, 4): the adjustment at each place
    for place in range(4):
        for column, adjust in _ADJUST.items():
            touched = (orders[:, place] == column) & (parameters[:, column] != _IDENTITY[column])
            rows = touched.nonzero().flatten().to(images.device, non_blocking=True)
            if len(rows):
                amount = parameters[touched, column].to(images.device, non_blocking=True)
                images[rows] = adjust(images[rows], amount)
    return images


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """
    Separable blur with one standard deviation a view, reflecting at the border.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): In [0, 1].
        sigma (`torch.Tensor` of shape `(N,)`): In pixels, positive.
        kernel_size (`int`): Odd number of taps.

    Returns:
        `torch.Tensor`: Same shape.
    """
    reach = kernel_size // 2
    taps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]).square())
    kernel /= kernel.sum(1, keepdim=True)
    height, width = images.shape[-2:]
    padded = F.pad(images, [reach, reach, reach, reach], mode="reflect")
    rows = sum(_per_view(kernel[:, i]) * padded[..., i : i + width] for i in range(kernel_size))
    return sum(_per_view(kernel[:, i]) * rows[..., i : i + height, :] for i in range(kernel_size))


def photometric(views: torch.Tensor, uniforms: torch.Tensor, settings: ViewSettings) -> torch.Tensor:
    """
    Everything between a uint8 crop and the pixels a network sees.

    Args:
        views (`torch.Tensor` of shape `(B, V, 3, H, W)`): uint8 crops.
        uniforms (`torch.Tensor` of shape `(B, V, NUM_UNIFORMS)`): Drawn from [0, 1) for each view.
        settings ([`ViewSettings`]): Probabilities and ranges, blur kernel, mean and standard deviation.

    Returns:
        `torch.Tensor`: fp32, normalised, same shape.
    """
    images = views.flatten(0, 1).float().div_(255).contiguous()
    host = parameters_from_uniforms(uniforms.flatten(0, 1).cpu(), settings)

    def rows_where(condition: torch.Tensor) -> torch.Tensor:
        return condition.nonzero().flatten().to(images.device, non_blocking=True)

    if len(rows := rows_where(host[:, FLIP] > 0)):
        images[rows] = images[rows].flip(-1)
    images = color_jitter(images, host)
    if len(rows := rows_where(host[:, GRAY] > 0)):
        images[rows] = luminance(images[rows]).expand(-1, 3, -1, -1)
    if len(rows := rows_where(host[:, BLUR_SIGMA] > 0)):
        sigma = host[host[:, BLUR_SIGMA] > 0, BLUR_SIGMA].to(images.device, non_blocking=True)
        images[rows] = gaussian_blur(images[rows], sigma, settings.blur_kernel_size)
    if len(rows := rows_where(host[:, SOLARIZE] <= 1)):
        threshold = host[host[:, SOLARIZE] <= 1, SOLARIZE].to(images.device, non_blocking=True)
        chosen = images[rows]
        images[rows] = torch.where(chosen >= _per_view(threshold), 1 - chosen, chosen)
    mean = torch.tensor(settings.image_mean, device=images.device)[:, None, None]
    std = torch.tensor(settings.image_std, device=images.device)[:, None, None]
    return images.sub_(mean).div_(std).unflatten(0, views.shape[:2])


def apply_photometric(batch: dict[str, torch.Tensor], settings: ViewSettings) -> dict[str, torch.Tensor]:
    """
    A batch from [`MultiCropCollator`] -> the arguments of [`LeJEPAForPreTraining`].

    Args:
        batch (`dict[str, torch.Tensor]`): `global_views`, `local_views` and their `*_photometric`.
        settings ([`ViewSettings`]): Probabilities and ranges of the operations.

    Returns:
        `dict[str, torch.Tensor]`: `global_views` and, if there are any, `local_views`, fp32 and normalised.
    """
    return {
        f"{kind}_views": photometric(batch[f"{kind}_views"], batch[f"{kind}_photometric"], settings)
        for kind in ("global", "local")
        if f"{kind}_views" in batch
    }
