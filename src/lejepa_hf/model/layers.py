"""What a backbone yields: its embedding, patch tokens, feature maps, outputs of its last blocks."""

import math
from contextlib import ExitStack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .architecture import find_blocks, forward_kwargs, is_timm, setting

_MOST_PREFIX_TOKENS = 32  # more tokens than that in front are not class and register tokens, but a finer grid


def final_states(outputs: ModelOutput) -> torch.Tensor | None:
    """
    The tokens `(B, N, C)` or the feature map `(B, C, h, w)` that a backbone ends with, or None if there is neither.

    Classes made for detectors have no `last_hidden_state` but one feature map for each stage; a network of several
    branches may return a list as its `last_hidden_state`.
    """
    states, maps = outputs.get("last_hidden_state"), outputs.get("feature_maps")
    states = maps[-1] if states is None and maps else states
    return states if isinstance(states, torch.Tensor) else None


def pool(outputs: ModelOutput, pooling: str) -> torch.Tensor:
    """One embedding per image, `(batch_size, embedding_dim)`; `pooling` is `"pooler"`, `"cls"` or `"mean"`."""
    if pooling == "pooler":
        return outputs["pooler_output"].flatten(1)
    states = final_states(outputs)
    if states is None:
        raise ValueError(f"`pooling` {pooling!r} needs tokens or a feature map, and the backbone returned neither.")
    if pooling == "cls":
        return states[:, 0]
    return states.mean(1) if states.ndim == 3 else states.flatten(2).mean(2)


def forward_layers(
    backbone: PreTrainedModel, pixel_values: torch.Tensor, num_layers: int
) -> tuple[ModelOutput, list[torch.Tensor]]:
    """
    A forward pass that returns the backbone's outputs and the states of its last `num_layers` layers, deepest last.

    The states are tokens `(batch_size, num_tokens, width)` or feature maps `(batch_size, width, rows, columns)`. The
    last layer is the backbone's own `last_hidden_state`. Earlier ones are the outputs of their blocks, passed through
    the backbone's final norm where it has one of that width, so that joined layers have the same scale.

    Source: joined layers are the linear protocol of DINO, arXiv 2104.14294, with 4 blocks; LeJEPA joins 2.
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

    def keep(module: nn.Module, inputs: tuple, output: torch.Tensor | list | tuple) -> None:
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
        raise ValueError(
            f"`layers` {num_layers} cannot be used with this {backbone.config.model_type} encoder, whose blocks "
            "process an image in pieces: set it to 1."
        )
    return outputs, [_channels_first(backbone, state, pixel_values) for state in [*states, last]]


def _last_state(outputs: ModelOutput) -> torch.Tensor:
    states = final_states(outputs)
    if states is None:
        raise ValueError("The encoder returns neither tokens nor a feature map: choose another one.")
    return states


def count_layers(backbone: PreTrainedModel) -> int:
    """How many layers [`forward_layers`] can return, at least one."""
    return max(1, len(_layers(backbone)))


def _layers(backbone: nn.Module) -> list[nn.Module]:
    """The blocks, without the norms between stages that ConvNeXt keeps in the same list."""
    return [block for block in find_blocks(backbone) if not isinstance(block, nn.LayerNorm)]


def _norms_outside(backbone: nn.Module, blocks: list[nn.Module]) -> list[nn.Module]:
    """The norms outside of all blocks, one of which may be the final one."""
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
    """Feature maps with channels first. Some timm models have them last, such as Swin; not all of them state it."""
    stated = _timm_attribute(backbone, "output_fmt") == "NHWC"
    is_square = pixel_values.shape[-1] == pixel_values.shape[-2]
    seen = state.ndim == 4 and is_square and state.shape[1] == state.shape[2] != state.shape[3]
    return state.permute(0, 3, 1, 2) if state.ndim == 4 and (stated or seen) else state


def _timm_attribute(backbone: PreTrainedModel, name: str) -> object:
    """An attribute of timm's network; None where it has none of that name, or where the backbone is not timm's."""
    return getattr(backbone.timm_model, name, None) if is_timm(backbone.config) else None


def patch_tokens(backbone: PreTrainedModel, state: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """
    The tokens of the patches, `(batch_size, num_patches, width)`, in the order of the image's rows.

    `state` comes from [`forward_layers`], and `image_size` is the height and width of the input in pixels.
    """
    if state.ndim == 4:
        return state.flatten(2).transpose(1, 2)
    return state[:, count_prefix_tokens(backbone, state.shape[1], image_size) :]


def feature_map(backbone: PreTrainedModel, state: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Arrange [`patch_tokens`] as they lie in the image, `(batch_size, width, rows, columns)`."""
    if state.ndim == 4:
        return state
    patches = patch_tokens(backbone, state, image_size)
    rows, columns = _patch_grid(backbone, image_size)
    if rows * columns != patches.shape[1]:
        rows, columns = _largest_grid(patches.shape[1], image_size)
    if rows * columns != patches.shape[1]:
        raise ValueError(
            f"{patches.shape[1]} patch tokens of a {backbone.config.model_type} encoder do not form a grid for images "
            f"of {image_size[0]} x {image_size[1]} pixels: use images of its native size."
        )
    return patches.transpose(1, 2).unflatten(2, (rows, columns))


def count_prefix_tokens(backbone: PreTrainedModel, num_tokens: int, image_size: tuple[int, int]) -> int:
    """
    Count the class and register tokens in front of the patches.

    timm's models state the number. For others, the number of patches follows from the patch size in the config, if
    that leaves a plausible number of other tokens. Where later stages merge patches (Swin), or the patch size is
    unknown, the patches are the largest grid of the image's shape that the tokens can fill.
    """
    stated = _timm_attribute(backbone, "num_prefix_tokens")
    if isinstance(stated, int):
        if stated >= num_tokens:
            raise ValueError(f"A {backbone.config.model_type} block yields {num_tokens} class tokens and no patches.")
        return stated
    rows, columns = _patch_grid(backbone, image_size)
    prefix = num_tokens - rows * columns
    if not rows * columns or not 0 <= prefix <= _MOST_PREFIX_TOKENS:
        rows, columns = _largest_grid(num_tokens, image_size)
        prefix = num_tokens - rows * columns
    return prefix


def has_class_token(backbone: PreTrainedModel, state: torch.Tensor, image_size: tuple[int, int]) -> bool:
    """Whether the first token of a state is a class token. timm's models may have registers without one."""
    registers = _timm_attribute(backbone, "num_reg_tokens")
    others = registers if isinstance(registers, int) else 0
    return state.ndim == 3 and count_prefix_tokens(backbone, state.shape[1], image_size) > others


def _patch_grid(backbone: PreTrainedModel, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches by the config's patch size; zeros where it has none."""
    # The stride decides how many patches there are where they overlap (Hiera).
    side = setting(backbone.config, "patch_stride") or setting(backbone.config, "patch_size")
    sides = (side,) if isinstance(side, int) else side
    return (image_size[0] // sides[0], image_size[1] // sides[-1]) if isinstance(sides, list | tuple) else (0, 0)


def _largest_grid(num_tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the largest grid of the image's shape with at most `num_tokens` places."""
    height, width = image_size
    return math.isqrt(num_tokens * height // width), math.isqrt(num_tokens * width // height)
