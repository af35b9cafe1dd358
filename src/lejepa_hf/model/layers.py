"""What a backbone yields besides its embedding: patch tokens, feature maps, outputs of its last blocks."""

import math
from contextlib import ExitStack

import torch
from torch import nn
from transformers import PreTrainedModel

from .architecture import forward_kwargs
from .pooling import final_states
from .repeated_layers import find_blocks

_MOST_PREFIX_TOKENS = 32  # more in front of the patches are no class and register tokens, but a finer grid


def forward_layers(backbone: PreTrainedModel, pixel_values: torch.Tensor, num_layers: int) -> tuple:
    """
    A forward pass that keeps the outputs of the last blocks.

    The last layer is the backbone's own `last_hidden_state`. Earlier ones are what their block puts out, through the
    backbone's final norm where it has one of that width, so that layers joined are on one scale.

    Args:
        backbone (`PreTrainedModel`): Any vision backbone of transformers, timm's included.
        pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Preprocessed images.
        num_layers (`int`): At least 1, at most [`count_layers`].

    Returns:
        `tuple`: The backbone's outputs, and a `list[torch.Tensor]` of `num_layers` states, deepest last: tokens
        `(batch_size, num_tokens, width)` or feature maps `(batch_size, width, height, width)`.

    Raises:
        ValueError: If the backbone has fewer blocks, returns neither tokens nor a feature map, or has earlier blocks
            that see images in pieces.

    Source: the joined layers are the linear protocol of DINO, arXiv 2104.14294, there 4 blocks; LeJEPA's are 2.
    """
    if num_layers == 1:
        outputs = backbone(pixel_values, **forward_kwargs(backbone))
        return outputs, [_channels_first(backbone, _last_state(outputs), pixel_values)]
    blocks = _layers(backbone)
    if not 1 <= num_layers <= len(blocks):
        raise ValueError(
            f"`layers` must be 1 to {len(blocks)} for this {backbone.config.model_type} encoder, got {num_layers}."
        )
    kept: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, inputs: tuple, output) -> None:
        kept[module] = output[0] if isinstance(output, list | tuple) else output

    norms = _norms_outside(backbone, blocks)
    with ExitStack() as hooks:
        for module in [*blocks[-num_layers:-1], *norms]:
            hooks.callback(module.register_forward_hook(keep).remove)
        outputs = backbone(pixel_values, **forward_kwargs(backbone))
    last = _last_state(outputs)
    final = next((norm for norm in norms if kept.get(norm) is last), None)
    states = [_normed(kept[block], last, final) for block in blocks[-num_layers:-1]]
    if any(state.shape[0] != pixel_values.shape[0] for state in states):  # windows, or pixels within patches
        raise ValueError(f"`layers`: the blocks of this {backbone.config.model_type} encoder cut images up: take 1.")
    return outputs, [_channels_first(backbone, state, pixel_values) for state in [*states, last]]


def _last_state(outputs) -> torch.Tensor:
    states = final_states(outputs)
    if states is None:
        raise ValueError("It returns neither tokens nor a feature map.")
    return states


def count_layers(backbone: PreTrainedModel) -> int:
    """How many layers [`forward_layers`] can return: one even where nothing repeats."""
    return max(1, len(_layers(backbone)))


def _layers(backbone: nn.Module) -> list[nn.Module]:
    """Its blocks, without norms that stand between stages in the same list as they do in ConvNeXt."""
    return [block for block in find_blocks(backbone) if not isinstance(block, nn.LayerNorm)]


def _norms_outside(backbone: nn.Module, blocks: list[nn.Module]) -> list[nn.Module]:
    """Norms that belong to no block, one of which may be the final one."""
    inside = {module for block in blocks for module in block.modules()}
    return [
        module
        for module in backbone.modules()
        if "norm" in type(module).__name__.lower() and module not in inside and inside.isdisjoint(module.modules())
    ]


def _normed(state: torch.Tensor, last: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
    """A block's output as the final norm would leave it."""
    if state.ndim == 4 and last.ndim == 3:
        state = state.flatten(2).transpose(1, 2)
    fits = state.shape[-1] == last.shape[-1] if last.ndim == 3 else state.shape == last.shape
    return norm(state) if norm is not None and fits else state


def _channels_first(backbone: PreTrainedModel, state: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Feature maps as PyTorch has them. Some timm models, Swin for one, have their channels last; not all say so."""
    said = getattr(getattr(backbone, "timm_model", None), "output_fmt", None) == "NHWC"
    is_square = pixel_values.shape[-1] == pixel_values.shape[-2]
    seen = state.ndim == 4 and is_square and state.shape[1] == state.shape[2] != state.shape[3]
    return state.permute(0, 3, 1, 2) if state.ndim == 4 and (said or seen) else state


def patch_tokens(backbone: PreTrainedModel, state: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """
    The tokens of the patches alone.

    Args:
        backbone (`PreTrainedModel`): Where the state comes from.
        state (`torch.Tensor`): One of [`forward_layers`].
        image_size (`tuple[int, int]`): Height and width in pixels of what went in.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_patches, width)`: Row by row of the image, without class and
        register tokens; the places of a feature map in the same order.

    Raises:
        ValueError: If there are no patches among the tokens.
    """
    if state.ndim == 4:
        return state.flatten(2).transpose(1, 2)
    return state[:, count_prefix_tokens(backbone, state.shape[1], image_size) :]


def feature_map(backbone: PreTrainedModel, state: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """
    [`patch_tokens`] where they lie in the image.

    Returns:
        `torch.Tensor` of shape `(batch_size, width, rows, columns)`.

    Raises:
        ValueError: If the patches form no grid of the image's shape.
    """
    if state.ndim == 4:
        return state
    patches = patch_tokens(backbone, state, image_size)
    rows, columns = _patch_grid(backbone, image_size) or (0, 0)
    if rows * columns != patches.shape[1]:
        rows, columns = _largest_grid(patches.shape[1], image_size)
    if rows * columns != patches.shape[1]:
        raise ValueError(
            f"{patches.shape[1]} patch tokens of a {backbone.config.model_type} encoder form no grid for images of "
            f"{image_size[0]} x {image_size[1]} pixels."
        )
    return patches.transpose(1, 2).unflatten(2, (rows, columns))


def count_prefix_tokens(backbone: PreTrainedModel, num_tokens: int, image_size: tuple[int, int]) -> int:
    """
    How many class and register tokens stand before the patches.

    timm's models say so. Else the patches are as many as the config's patch size cuts from the image, if that leaves
    a plausible number; where stages have merged patches since (Swin), or no patch size is known, they are the largest
    grid of the image's shape that the tokens can fill.

    Args:
        backbone (`PreTrainedModel`): Where the tokens come from.
        num_tokens (`int`): All of them.
        image_size (`tuple[int, int]`): Height and width in pixels of what went in.

    Returns:
        `int`: At least 0, less than `num_tokens`.

    Raises:
        ValueError: If there are no patches among the tokens.
    """
    said = getattr(getattr(backbone, "timm_model", None), "num_prefix_tokens", None)
    if said is not None:
        if said >= num_tokens:
            raise ValueError(f"A {backbone.config.model_type} block yields {num_tokens} class tokens and no patches.")
        return said
    rows, columns = _patch_grid(backbone, image_size) or (0, 0)
    prefix = num_tokens - rows * columns
    if not rows * columns or not 0 <= prefix <= _MOST_PREFIX_TOKENS:
        rows, columns = _largest_grid(num_tokens, image_size)
        prefix = num_tokens - rows * columns
    return prefix


def has_class_token(backbone: PreTrainedModel, state: torch.Tensor, image_size: tuple[int, int]) -> bool:
    """Whether the first token of a state stands for the whole image."""
    network = getattr(backbone, "timm_model", backbone)
    registers = getattr(network, "num_reg_tokens", 0)  # of timm, whose models may have these alone
    return state.ndim == 3 and count_prefix_tokens(backbone, state.shape[1], image_size) > registers


def _patch_grid(backbone: PreTrainedModel, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns that the config's patch size makes of an image, None where it has none."""
    # Patches that overlap (Hiera) are as many as their stride says.
    sides = getattr(backbone.config, "patch_stride", None) or getattr(backbone.config, "patch_size", None)
    if sides is None:
        return None
    sides = tuple(sides) if isinstance(sides, list | tuple) else (sides, sides)
    return image_size[0] // sides[0], image_size[1] // sides[-1]


def _largest_grid(num_tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the image's shape, at most as many as there are tokens."""
    height, width = image_size
    return math.isqrt(num_tokens * height // width), math.isqrt(num_tokens * width // height)
