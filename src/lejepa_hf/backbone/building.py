"""A backbone with fresh or pretrained weights, ready for training."""

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .facts import without_pooler


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
    backbone = AutoModel.from_config(config, **without_pooler(config))
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
    return AutoModel.from_pretrained(name_or_path, dtype=torch.float32, **without_pooler(config))
