"""Where the class token of a transformer looks; how long patch features are, where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..model.layers import feature_map, has_class_token
from .feature_extractor import FeatureExtractor
from .patch_maps import enlarged_pixels, forward_enlarged

_RECORDING = "class_token_attention"  # its name among transformers' attention functions


@torch.no_grad()
def class_attention(extractor: FeatureExtractor, images: list, enlarge: int = 1) -> torch.Tensor | None:
    """
    What the class token attends to in the last block, the mean over heads.

    Args:
        extractor, images, enlarge: As of [`~evaluation.patch_maps.patch_maps`].

    Returns:
        `torch.Tensor` of shape `(num_images, rows, columns)`: Shares of its attention, fp32, on the host; what goes to
        class and register tokens is left out. None where the encoder has no class token, or attention that
        transformers lets nobody see: convolutional networks, timm's models, BEiT and Swin among others.

    Raises:
        ValueError: If the encoder takes no images of that size.
    """
    encoder = extractor.encoder
    pixels = enlarged_pixels(extractor, images, enlarge)
    size = tuple(pixels.shape[-2:])
    with _recorded(encoder) as attentions:
        state = forward_enlarged(encoder, pixels, enlarge)
    if not has_class_token(encoder, state, size):
        return None
    if not attentions or attentions[-1].shape[-1] != state.shape[1]:
        return None
    # As a state with one feature, which lies in the image as any other does.
    attention = attentions[-1].mean(1).transpose(1, 2)
    return feature_map(encoder, attention, size)[:, 0].float().cpu()


def feature_norms(maps: torch.Tensor) -> torch.Tensor:
    """
    The length of each patch feature.

    Args:
        maps (`torch.Tensor` of shape `(num_images, dim, rows, columns)`): From [`~evaluation.patch_maps.patch_maps`].

    Returns:
        `torch.Tensor` of shape `(num_images, rows, columns)`
    """
    return maps.norm(dim=1)


@contextmanager
def _recorded(encoder) -> Iterator[list[torch.Tensor]]:
    """
    The first token's attention in each block that is passed, `(batch_size, heads, 1, num_tokens)`.

    Not `output_attentions`, which keeps all tokens' attention of all blocks: gigabytes for enlarged images.
    """
    from transformers import AttentionInterface

    recorded: list[torch.Tensor] = []
    usual = encoder.config._attn_implementation
    attention_of = AttentionInterface().get(usual)
    if attention_of is None:  # "eager": a class that has a form of its own
        yield recorded
        return

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
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
