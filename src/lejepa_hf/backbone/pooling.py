"""What one embedding per image is, and how wide."""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from .facts import forward_kwargs, native_image_size, num_channels, without_pooler


def pool(outputs, pooling: str) -> torch.Tensor:
    """
    One embedding per image.

    Args:
        outputs (`ModelOutput`): What the backbone returned.
        pooling (`str`): `"pooler"`, `"cls"` or `"mean"`.

    Returns:
        `torch.Tensor` of shape `(batch_size, embedding_dim)`.
    """
    if pooling == "pooler":
        return outputs.pooler_output.flatten(1)
    states = outputs.last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    return states.mean(1) if states.ndim == 3 else states.flatten(2).mean(2)


def trace_shapes(config: PreTrainedConfig, size: int):
    """The backbone and its outputs for one image of `size` pixels, on the meta device: shapes without work."""
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, **without_pooler(config)).eval()
        pixels = torch.empty(1, num_channels(config), size, size)
    # Not within the context: tables that a class computes once for all its models (BEiT's positions) would stay empty.
    with torch.no_grad():
        return backbone, backbone(pixels, **forward_kwargs(backbone))


def resolve_pooling(config: PreTrainedConfig, pooling: str) -> tuple[str, int]:
    """
    How this backbone's embedding is made, and its width, from a pass over shapes alone.

    Args:
        config (`PreTrainedConfig`): The backbone's config.
        pooling (`str`): As in [`LeJEPAConfig`].

    Returns:
        `tuple[str, int]`: `"pooler"`, `"cls"` or `"mean"`, and the embedding dimension.

    Raises:
        ValueError: If the backbone yields nothing from which that embedding can be made.
    """
    try:
        backbone, outputs = trace_shapes(config, native_image_size(config))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"`backbone_config`: a {config.model_type} model does not turn pixels into embeddings ({error}); choose a "
            "vision backbone such as vit, dinov2, resnet, convnextv2 or timm_wrapper, or mend its settings."
        ) from error
    states = getattr(outputs, "last_hidden_state", None)
    tokens = states is not None and states.ndim == 3
    possible = {
        "pooler": getattr(outputs, "pooler_output", None) is not None,
        "cls": tokens and any("cls_token" in name or "class_embedding" in name for name, _ in _tokens(backbone)),
        "mean": states is not None and states.ndim in (3, 4),
    }
    available = [name for name, yes in possible.items() if yes]
    chosen = available[0] if pooling == "auto" and available else pooling
    if chosen not in available:
        raise ValueError(
            f"`pooling` {pooling!r} cannot be made from a {config.model_type} backbone, which offers "
            f"{', '.join(available) or 'no pooled output, tokens or feature map'}: choose another backbone or pooling."
        )
    return chosen, pool(outputs, chosen).shape[-1]


def _tokens(backbone: nn.Module):
    """Parameters that stand for single tokens: no weight matrix has a leading dimension of one."""
    return [(name, p) for name, p in backbone.named_parameters() if p.ndim == 1 or p.shape[0] == 1]
