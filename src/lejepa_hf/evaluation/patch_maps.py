"""Patch features and attention as maps of images, and three colours that show features."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from ..model.layers import has_class_token
from ..model.tracing import TRACING_ERRORS
from ..system.error_text import reason_of
from .feature_extractor import FeatureExtractor
from .pixel_values import check_enlargement, height_and_width

_OUTLIERS = 0.02  # share of values left out at either end of a colour's scale: one odd patch would grey all others
_ROWS_TO_SEE = 12  # rows of a legible map of patches
MOST_ENLARGED = 4
_RECORDING = "class_token_attention"  # name of the recording function among transformers' attention functions


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
    pixels = enlarged_pixels(extractor, images, enlarge)
    return extractor.as_maps(_last_state(extractor, pixels, enlarge), pixels)


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


def _last_state(extractor: FeatureExtractor, pixels: torch.Tensor, enlarge: int) -> torch.Tensor:
    try:
        return extractor.last_state(pixels)
    except TRACING_ERRORS as error:
        kind, (rows, columns) = extractor.encoder.config.model_type, pixels.shape[-2:]
        raise ValueError(
            f"`enlarge` {enlarge}: this {kind} encoder does not accept images of {rows} x "
            f"{columns} pixels ({reason_of(error)}); choose 1."
        ) from error


def enlarged_pixels(extractor: FeatureExtractor, images: list, enlarge: int = 1) -> torch.Tensor:
    """
    Pixel values of decoded images at `enlarge` times the processor's size, of shape `(num_images, num_channels,
    height, width)` and on the host. An image that becomes too large is refused, see [`check_enlargement`].
    """
    if enlarge < 1:
        raise ValueError(f"`enlarge` must be at least 1, got {enlarge}.")
    sizes: dict[str, dict[str, int]] = {}
    if enlarge > 1:
        for name in ("size", "crop_size"):
            if sides := getattr(extractor.processor, name, None):
                sizes[name] = {side: enlarge * value for side, value in dict(sides).items() if value}
    for image in images:
        check_enlargement(image, extractor.processor, enlarge=enlarge)
    return extractor.preprocess(images, **sizes)


def similarity_to_patch(maps: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """
    Cosine similarity of each patch feature in `maps` `(num_images, dim, rows, columns)` with that of the patch at
    `row` and `column` of the same image, `(num_images, rows, columns)`. 0 where a feature is zero.
    """
    directions = F.normalize(maps.float(), dim=1)
    return torch.einsum("ndrc,nd->nrc", directions, directions[:, :, row, column])


@torch.no_grad()
def class_attention(extractor: FeatureExtractor, images: list, enlarge: int = 1) -> torch.Tensor | None:
    """
    Attention of the class token to the patches in the last block, averaged over heads, `(num_images, rows, columns)`,
    fp32, on the host, for images as in [`patch_maps`]. Its attention to class and register tokens is left out. None if
    the encoder has no class token, or its attention does not pass through transformers' interface: convolutional
    networks, timm's models, BEiT and Swin among others.
    """
    encoder, pixels = extractor.encoder, enlarged_pixels(extractor, images, enlarge)
    with _recorded(encoder) as attentions:
        state = _last_state(extractor, pixels, enlarge)
    is_recorded = attentions and attentions[-1].shape[-1] == state.shape[1]
    if not is_recorded or not has_class_token(encoder, state, height_and_width(pixels)):
        return None
    # A state with one feature, which is laid out over the image like any other.
    return extractor.as_maps(attentions[-1].mean(1).transpose(1, 2), pixels)[:, 0]


@contextmanager
def _recorded(encoder: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """
    Record the first token's attention in each block that runs, `(batch_size, heads, 1, num_tokens)`.

    `output_attentions` would keep the attention of all tokens in all blocks: gigabytes for enlarged images.
    """
    recorded: list[torch.Tensor] = []
    usual = encoder.config._attn_implementation
    attention_of = AttentionInterface().get(usual)
    if attention_of is None:  # "eager": the class computes attention itself
        yield recorded
        return

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if attention_mask is None:
            scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
            logits = query[:, :, :1].float() @ key.transpose(2, 3).float() * scale
            recorded.append(logits.softmax(-1))
        return attention_of(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(_RECORDING, attend)
    encoder.set_attn_implementation(_RECORDING)
    try:
        yield recorded
    finally:
        encoder.set_attn_implementation(usual)


class PrincipalColours:
    """
    The first three principal components over all patches of all images as red, green and blue, so that patches of one
    colour have similar features. Components and their ranges are found once, in the maps `(num_images, dim, rows,
    columns)` that [`patch_maps`] made of some images, and features of further images get the same colours.
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
