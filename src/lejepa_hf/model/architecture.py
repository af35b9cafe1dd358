"""What a backbone's config and class say of themselves: channels, native size, patches, arguments, pooler."""

import inspect

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

_IMAGENET_SIZE = 224


def is_timm(config: PreTrainedConfig) -> bool:
    """Whether timm builds the network, inside of transformers' wrapper."""
    return config.model_type == "timm_wrapper"


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


def forward_kwargs(backbone: PreTrainedModel | type[PreTrainedModel]) -> dict[str, bool]:
    """Arguments that let the backbone take crops of another size than its position table was made for."""
    accepts = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
    return {"interpolate_pos_encoding": True} if accepts else {}


def native_image_size(config: PreTrainedConfig) -> int:
    """Side in pixels of the images the config was made for; 224 where nothing says it."""
    size = _timm_argument(config, "img_size") if is_timm(config) else getattr(config, "image_size", None)
    if size is None and is_timm(config):
        size = _timm_pretrained_cfg(config).get("input_size", (3, _IMAGENET_SIZE))[-1]
    return _side(size) or _IMAGENET_SIZE


def num_channels(config: PreTrainedConfig) -> int:
    """Image channels the backbone takes; 3 where its config does not say."""
    found = _timm_argument(config, "in_chans") if is_timm(config) else getattr(config, "num_channels", None)
    return found or 3


def patch_size(backbone: PreTrainedModel) -> int | None:
    """
    Side in pixels of the patches that images are cut into, without overlap, by the convolution that sees the pixels;
    None where there is no such one. Configs call the width of overlapping filters a patch size, too.
    """
    channels = num_channels(backbone.config)
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    first = next((module for module in convolutions if module.in_channels == channels), None)
    is_cutting = first is not None and first.stride == first.kernel_size and first.stride[0] > 1
    return first.stride[0] if is_cutting else None


def _side(size):
    """The first of several sides: images and patches are square here."""
    return size[0] if isinstance(size, list | tuple) else size


def _timm_argument(config: PreTrainedConfig, name: str):
    return (config.model_args or {}).get(name)


def _timm_pretrained_cfg(config: PreTrainedConfig) -> dict:
    """What the checkpoint says of its weights, otherwise what timm says of the architecture."""
    found = getattr(config, "pretrained_cfg", None)
    if found is None:
        import timm

        known = timm.models.get_pretrained_cfg(config.architecture)
        found = known.to_dict() if known is not None else {}
    return found
