"""What a backbone's config and class say of themselves: channels, native size, arguments, pooler."""

import inspect

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


def has_learned_pooler(config: PreTrainedConfig) -> bool:
    """A dense layer with activation on the first token, as in ViT: LeJEPA trains the token itself instead."""
    return hasattr(config, "pooler_act")


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Arguments that leave a learned pooler out of the class."""
    return {"add_pooling_layer": False} if has_learned_pooler(config) else {}


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
