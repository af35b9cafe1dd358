"""Attention of the class token, and lengths of patch features for encoders without one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from ..model.layers import feature_map, has_class_token
from .feature_extractor import FeatureExtractor
from .patch_maps import enlarged_pixels, forward_enlarged
from .pixel_values import height_and_width

_RECORDING = "class_token_attention"  # name of the recording function among transformers' attention functions


@torch.no_grad()
def class_attention(extractor: FeatureExtractor, images: list, enlarge: int = 1) -> torch.Tensor | None:
    """
    Attention of the class token to the patches in the last block, averaged over heads.

    Args:
        extractor ([`FeatureExtractor`]): The encoder with its processor; its pooling is not used.
        images (`list`): Images from its `decode`.
        enlarge (`int`, *optional*, defaults to 1): Factor for the size of images, see
            [`~evaluation.patch_maps.patch_maps`].

    Returns:
        `torch.Tensor` of shape `(num_images, rows, columns)`: Shares of its attention, fp32, on the host, without
            those
        of class and register tokens. None if the encoder has no class token, or its attention does not pass through
        transformers' interface: convolutional networks, timm's models, BEiT and Swin among others.

    Raises:
        ValueError: If the encoder cannot take images of that size.
    """
    encoder = extractor.encoder
    pixels = enlarged_pixels(extractor, images, enlarge)
    size = height_and_width(pixels)
    with _recorded(encoder) as attentions:
        state = forward_enlarged(encoder, pixels, enlarge)
    if not has_class_token(encoder, state, size):
        return None
    if not attentions or attentions[-1].shape[-1] != state.shape[1]:
        return None
    # A state with one feature, which is laid out over the image like any other.
    attention = attentions[-1].mean(1).transpose(1, 2)
    return feature_map(encoder, attention, size)[:, 0].float().cpu()


def feature_norms(maps: torch.Tensor) -> torch.Tensor:
    """
    The length of each patch feature.

    Args:
        maps (`torch.Tensor` of shape `(num_images, dim, rows, columns)`): Maps from
            [`~evaluation.patch_maps.patch_maps`].

    Returns:
        `torch.Tensor` of shape `(num_images, rows, columns)`
    """
    return maps.norm(dim=1)


@contextmanager
def _recorded(encoder: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """
    Record the first token's attention in each block that runs, `(batch_size, heads, 1, num_tokens)`.

    `output_attentions` would keep the attention of all tokens in all blocks: gigabytes for enlarged images.
    """
    from transformers import AttentionInterface

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
        scaling: float | None = None,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if attention_mask is None:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            logits = query[:, :, :1].float() @ key.transpose(2, 3).float() * scale
            recorded.append(logits.softmax(-1))
        return attention_of(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    AttentionInterface.register(_RECORDING, attend)
    encoder.set_attn_implementation(_RECORDING)
    try:
        yield recorded
    finally:
        encoder.set_attn_implementation(usual)
