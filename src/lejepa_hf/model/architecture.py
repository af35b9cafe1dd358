"""What a backbone's config, class and modules state: channels, native size, patches, arguments, pooler, blocks."""

import inspect

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

_IMAGENET_SIZE = 224
_MOST_STAGES = 6  # at most so many list elements that contain lists themselves are stages, not blocks


def setting(config: PreTrainedConfig, name: str) -> object:
    """The value of a setting that only some backbones have; None for the others."""
    return getattr(config, name, None)


def is_timm(config: PreTrainedConfig) -> bool:
    """Whether timm builds the network, inside of transformers' wrapper."""
    return config.model_type == "timm_wrapper"


def has_learned_pooler(config: PreTrainedConfig) -> bool:
    """Whether a dense layer with activation follows on the first token, as in ViT. LeJEPA trains without it."""
    return setting(config, "pooler_act") is not None


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Arguments that make the class leave out a learned pooler."""
    return {"add_pooling_layer": False} if has_learned_pooler(config) else {}


def is_convolutional(backbone: PreTrainedModel) -> bool:
    """Whether it convolves feature maps, besides cutting pixels into patches."""
    pixels = num_channels(backbone.config)
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return any(module.in_channels > pixels and module.kernel_size != (1, 1) for module in convolutions)


def forward_kwargs(backbone: PreTrainedModel | type[PreTrainedModel]) -> dict[str, bool]:
    """Arguments that let the backbone take crops of another size than its position table was made for."""
    accepts = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
    return {"interpolate_pos_encoding": True} if accepts else {}


def native_image_size(config: PreTrainedConfig) -> int:
    """Side in pixels of the images the config was made for; 224 where nothing states it."""
    size = _timm_argument(config, "img_size") if is_timm(config) else setting(config, "image_size")
    if size is None and is_timm(config):
        size = _timm_pretrained_cfg(config).get("input_size")
        size = size[-1] if size is not None else None
    size = size[0] if isinstance(size, list | tuple) else size  # images are square here
    return size if isinstance(size, int) and size else _IMAGENET_SIZE


def num_channels(config: PreTrainedConfig) -> int:
    """Image channels the backbone takes; 3 where its config does not state it."""
    found = _timm_argument(config, "in_chans") if is_timm(config) else setting(config, "num_channels")
    return found if isinstance(found, int) and found else 3


def patch_size(backbone: PreTrainedModel) -> int | None:
    """
    Side in pixels of the patches that the first convolution cuts images into without overlap.

    None where the first convolution overlaps: configs call the width of overlapping filters a patch size, too.
    """
    channels = num_channels(backbone.config)
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    first = next((module for module in convolutions if module.in_channels == channels), None)
    if first is None or first.stride != first.kernel_size or first.stride[0] == 1:
        return None
    return first.stride[0]


def find_blocks(backbone: nn.Module) -> list[nn.Module]:
    """
    Find the repeated blocks of a network from its structure, in order; an empty list if it has none.

    They are the modules in its module lists or, where these hold a few stages, in the lists inside the stages. FSDP
    shards, and `torch.compile` compiles, one after the other.
    """
    outer = _in_lists(backbone)
    inner = [block for module in outer for block in _in_lists(module)]
    return inner if inner and len(outer) <= _MOST_STAGES else outer


def _in_lists(module: nn.Module) -> list[nn.Module]:
    """The outermost modules in lists below `module` that have weights and are not single layers of torch."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += [block for block in _elements(child) if not type(block).__module__.startswith("torch.nn.")]
        else:
            found += _in_lists(child)
    return [block for block in found if any(True for _ in block.parameters())]


def _elements(container: nn.ModuleList | nn.Sequential) -> list[nn.Module]:
    """The elements of a list, with those of the lists in it."""
    nested = (_elements(child) if isinstance(child, nn.ModuleList | nn.Sequential) else [child] for child in container)
    return [element for elements in nested for element in elements]


def _timm_argument(config: PreTrainedConfig, name: str) -> object:
    return (config.model_args or {}).get(name)


def _timm_pretrained_cfg(config: PreTrainedConfig) -> dict:
    """What the checkpoint states about its weights, otherwise what timm states about the architecture."""
    found = setting(config, "pretrained_cfg")
    if isinstance(found, dict):
        return found
    import timm

    known = timm.models.get_pretrained_cfg(config.architecture)
    return known.to_dict() if known is not None else {}
