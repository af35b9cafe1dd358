"""
What differs between backbone families, answered in one place: how to build one, what one embedding per image is, which
crops it accepts, and how its own class can carry the embedding as `pooler_output`.
"""

import copy
import inspect

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel


def _has_learned_pooler(config: PreTrainedConfig) -> bool:
    """A dense layer with activation on the first token, as in ViT: LeJEPA trains the token itself instead."""
    return hasattr(config, "pooler_act")


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Arguments that leave a learned pooler out of the class."""
    return {"add_pooling_layer": False} if _has_learned_pooler(config) else {}


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """
    The backbone with fresh weights, ready for training: no learned pooler, no parameter that never gets a gradient.

    Args:
        config (`PreTrainedConfig`): Any vision config that `AutoModel` builds.

    Returns:
        `PreTrainedModel`: The backbone's native class.

    Raises:
        ImportError: For timm backbones where timm is not installed.
    """
    backbone = AutoModel.from_config(config, **_without_pooler(config))
    if config.model_type == "timm_wrapper" and not next(backbone.parameters()).is_meta:
        _restore_timm_initialisation(backbone)
    # Only masked-image training uses it; without a gradient it would stop DDP in the second step.
    mask_token = getattr(getattr(backbone, "embeddings", None), "mask_token", None)
    if mask_token is not None:
        mask_token.requires_grad_(False)
    return backbone


def _restore_timm_initialisation(backbone: PreTrainedModel) -> None:
    """The wrapper draws every layer anew from normal(0, 0.02); timm's own initialisation is what its models need."""
    import timm

    fresh = timm.create_model(backbone.config.architecture, num_classes=0, **(backbone.config.model_args or {}))
    backbone.timm_model.load_state_dict(fresh.state_dict())


def load_pretrained_backbone(name_or_path: str) -> PreTrainedModel:
    """
    A pretrained backbone for a warm start, without its learned pooler if it has one.

    Args:
        name_or_path (`str`): Hub id or folder that `AutoModel.from_pretrained` accepts.

    Returns:
        `PreTrainedModel`: The backbone's native class, fp32.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type == "lejepa":
        return AutoModel.from_pretrained(name_or_path, dtype=torch.float32).backbone
    return AutoModel.from_pretrained(name_or_path, dtype=torch.float32, **_without_pooler(config))


def is_convolutional(backbone: PreTrainedModel) -> bool:
    """Whether it convolves feature maps, and not only cuts pixels into patches."""
    pixels = num_channels(backbone.config)
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return any(module.in_channels > pixels and module.kernel_size != (1, 1) for module in convolutions)


def forward_kwargs(backbone: PreTrainedModel) -> dict[str, bool]:
    """Arguments that let the backbone take crops of another size than its position table was made for."""
    accepts = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
    return {"interpolate_pos_encoding": True} if accepts else {}


def native_image_size(config: PreTrainedConfig) -> int:
    """Side in pixels of the images the config was made for; 224 where it does not say."""
    size = getattr(config, "image_size", None)
    if size is None and getattr(config, "pretrained_cfg", None):
        size = config.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    size = size[0] if isinstance(size, list | tuple) else size
    return size or 224


def num_channels(config: PreTrainedConfig) -> int:
    """Image channels the backbone takes; 3 where its config does not say."""
    return getattr(config, "num_channels", None) or 3


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


def _shapes(config: PreTrainedConfig, size: int):
    """The backbone and its outputs for one image of `size` pixels, on the meta device: shapes without work."""
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, **_without_pooler(config)).eval()
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
        backbone, outputs = _shapes(config, native_image_size(config))
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


def check_crop_size(config: PreTrainedConfig, field: str, size: int) -> None:
    """
    Raises:
        ValueError: If crops of `size` pixels do not divide into the backbone's patches, or it cannot take them at all.
    """
    patch_size = getattr(config, "patch_size", None)
    patch_size = patch_size[0] if isinstance(patch_size, list | tuple) else patch_size
    if isinstance(patch_size, int) and size % patch_size:
        lower = size // patch_size * patch_size
        options = f"{lower} or {lower + patch_size}" if lower else f"{patch_size}"
        raise ValueError(
            f"`{field}` {size} is not a multiple of the {config.model_type} backbone's patch size {patch_size}, "
            f"pixels would be dropped silently: use {options}."
        )
    try:
        _shapes(config, size)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"`{field}` {size} cannot be taken by the {config.model_type} backbone ({reason}): choose a larger crop "
            f"or one near the backbone's own size, {native_image_size(config)}."
        ) from error


def as_standalone(backbone: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """
    The backbone as a model of its native class whose saved form needs nothing else.

    A class with a learned pooler would load with a random one. It gets the identity instead, so that `pooler_output`
    is exactly the first token. `config.embedding_pooling` says how the trained embedding is made.

    Args:
        backbone (`PreTrainedModel`): A trained backbone from [`build_backbone`]; not modified, nor is its config.
        pooling (`str`): How it was trained: `"pooler"`, `"cls"` or `"mean"`.

    Returns:
        `PreTrainedModel`: In evaluation mode.
    """
    config = backbone.config.__class__.from_dict(backbone.config.to_dict())
    config.embedding_pooling = pooling
    if not _has_learned_pooler(config):
        standalone = copy.copy(backbone)  # shares the weights, has its own config
        standalone.config = config
        return standalone
    config.pooler_act = "linear"
    config.embedding_pooling = "pooler" if pooling == "cls" else pooling
    standalone = type(backbone)(config)
    result = standalone.load_state_dict(backbone.state_dict(), strict=False)
    unfilled = [key for key in result.missing_keys if not key.startswith("pooler.")] + result.unexpected_keys
    if unfilled:
        raise RuntimeError(f"{type(backbone).__name__} does not take its own weights back: {unfilled}.")
    if standalone.pooler is None:  # some classes have the key in their config and no pooler by default
        return standalone.eval()
    with torch.no_grad():
        standalone.pooler.dense.weight.copy_(torch.eye(config.hidden_size))
        standalone.pooler.dense.bias.zero_()
    return standalone.eval()
