"""Patch features as maps of images, and three colours that show them."""

from contextlib import suppress

import torch
from transformers import PreTrainedModel

from ..model.architecture import num_channels
from ..model.layers import feature_map, forward_layers
from ..model.tracing import TRACING_ERRORS
from ..system.error_text import reason_of
from .feature_extractor import FeatureExtractor
from .pixel_values import check_enlargement, height_and_width, setting_of, to_pixel_values

_OUTLIERS = 0.02  # share of values left out at either end of a colour's scale: one odd patch would grey all others
_ROWS_TO_SEE = 12  # rows of a legible map of patches
MOST_ENLARGED = 4


def patch_maps(extractor: FeatureExtractor, images: list, enlarge: int = 1) -> torch.Tensor:
    """
    The last layer's patch tokens, or its feature map, of shape `(num_images, dim, rows, columns)`, fp32, on the host.

    Args:
        extractor ([`FeatureExtractor`]): The encoder with its processor; its pooling is not used.
        images (`list`): Images from its `decode`.
        enlarge (`int`, *optional*, defaults to 1): Factor on the side of the processor's crop, for a finer map of
            images that are larger than those the encoder was trained on. A ValueError is raised if it cannot take
            images of that size, or its patches do not form a grid.
    """
    encoder = extractor.encoder
    pixels = enlarged_pixels(extractor, images, enlarge)
    state = forward_enlarged(encoder, pixels, enlarge)
    return feature_map(encoder, state, height_and_width(pixels)).float().cpu()


def legible_patch_maps(extractor: FeatureExtractor, images: list) -> tuple[torch.Tensor, int]:
    """
    [`patch_maps`] with enough rows to be legible if the encoder takes larger images, and the factor by which images
    were enlarged, at most `MOST_ENLARGED`.
    """
    maps = patch_maps(extractor, images)
    if maps.shape[2] < _ROWS_TO_SEE:
        with suppress(ValueError):  # an encoder of one size
            larger = min(MOST_ENLARGED, -(-_ROWS_TO_SEE // maps.shape[2]))
            return patch_maps(extractor, images, larger), larger
    return maps, 1


@torch.no_grad()
def forward_enlarged(encoder: PreTrainedModel, pixels: torch.Tensor, enlarge: int) -> torch.Tensor:
    """
    The last layer's state, as from [`~model.layers.forward_layers`], for [`enlarged_pixels`]; a ValueError that names
    `enlarge` if the encoder cannot take images of that size.
    """
    try:
        return forward_layers(encoder, pixels.to(encoder.device, encoder.dtype), 1)[1][0]
    except TRACING_ERRORS as error:
        rows, columns = pixels.shape[-2:]
        raise ValueError(
            f"`enlarge` {enlarge}: this {encoder.config.model_type} encoder does not accept images of {rows} x "
            f"{columns} pixels ({reason_of(error)}); choose 1."
        ) from error


def enlarged_pixels(extractor: FeatureExtractor, images: list, enlarge: int = 1) -> torch.Tensor:
    """
    Pixel values of decoded images at `enlarge` times the processor's size, of shape `(num_images, num_channels,
    height, width)` and on the host. One that becomes too large is refused, see [`check_enlargement`].
    """
    if enlarge < 1:
        raise ValueError(f"`enlarge` must be at least 1, got {enlarge}.")
    processor = extractor.processor
    sizes: dict[str, dict[str, int]] = {}
    if enlarge > 1:
        for name in ("size", "crop_size"):
            if sides := setting_of(processor, name):
                sizes[name] = {side: enlarge * value for side, value in dict(sides).items() if value}
    for image in images:
        check_enlargement(image, processor, enlarge=enlarge)
    return to_pixel_values(images, processor, num_channels(extractor.encoder.config), **sizes)


def principal_colours(maps: torch.Tensor) -> torch.Tensor:
    """
    The first three principal components over all patches of all images, as red, green and blue: patches of one colour
    have similar features, within an image and between images. See [`PrincipalColours`], here fitted to the same maps.
    """
    return PrincipalColours(maps)(maps)


class PrincipalColours:
    """
    Three principal components and their ranges, found once in the maps `(num_images, dim, rows, columns)` that
    [`patch_maps`] made of some images, so that features of further images get the same colours.
    """

    def __init__(self, maps: torch.Tensor) -> None:
        features = _rows(maps)
        self._mean = features.mean(0)
        features = features - self._mean
        eigenvalues, axes = torch.linalg.eigh(features.T @ features)
        axes = axes.flip(1)[:, :3]
        largest = axes.abs().argmax(0, keepdim=True)
        self._axes = axes * axes.gather(0, largest).sign()
        values = features @ self._axes
        values = values[:: len(values) // 1_000_000 + 1]  # `torch.quantile` takes no more than 16 million numbers
        self._low, self._high = (torch.quantile(values, level, dim=0) for level in (_OUTLIERS, 1 - _OUTLIERS))
        self._is_there = eigenvalues.flip(0)[:3] > 1e-9 * eigenvalues.sum()

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """
        Maps of the same encoder -> colours in [0, 1] of shape `(num_images, rows, columns, 3)`; components that the
        features do not have are 0.5. The same maps always get the same colours: the sign of each component is the one
        that makes its largest weight positive.
        """
        values = (_rows(maps) - self._mean) @ self._axes
        colours = torch.full((len(values), 3), 0.5, dtype=torch.float64)
        scaled = ((values - self._low) / (self._high - self._low).clamp_min(1e-12)).clamp(0, 1)
        colours[:, : values.shape[1]] = torch.where(self._is_there, scaled, 0.5)
        return colours.float().unflatten(0, (maps.shape[0], *maps.shape[2:]))


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """One row for each patch."""
    return maps.movedim(1, -1).flatten(0, -2).double()
