"""What a backbone does with images, found by forward passes on the meta device: no memory, no arithmetic."""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..system.error_text import reason_of
from .architecture import forward_kwargs, is_timm, native_image_size, num_channels, patch_size, setting, without_pooler
from .drop_path import note_residual_blocks
from .foreign_settings import refuse_foreign_settings
from .layers import final_states, pool

# What a network raises for images of a size that it does not take, or for inputs that are not images to it.
TRACING_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, IndexError)

_STEP = 8  # pixels between the sizes that are tried where the patch size is unknown


class BackboneTraits(NamedTuple):
    """How a backbone's embedding is made, and how wide it is."""

    pooling: str  # "pooler", "cls" or "mean"
    embedding_dim: int
    idle_parameters: frozenset[str]  # without effect on the embedding: mask tokens, a norm of another pooling
    residual_blocks: tuple[int, ...]  # numbers of the blocks whose output has the shape of their input


def without_weights(
    config: PreTrainedConfig, watch: Callable[[nn.Module], None] | None = None
) -> tuple[PreTrainedModel, ModelOutput]:
    """
    Build the backbone with shapes but without values, let `watch` see it, and pass an image of its native size
    through it.

    Backbone and outputs are on the meta device; on the CPU for the few networks of timm that compute while they are
    built or depend on their device.
    """
    refuse_foreign_settings(config)
    try:
        try:
            return _trace_on("meta", config, watch)
        except RuntimeError:
            if not is_timm(config):
                raise
            return _trace_on("cpu", config, watch)
    except ImportError as error:
        raise ValueError(f"`backbone_config`: {reason_of(error)}") from error
    except TRACING_ERRORS as error:
        raise ValueError(
            f"`backbone_config`: a {config.model_type} model does not turn pixels into embeddings "
            f"({reason_of(error)}); choose a vision backbone such as vit, dinov2, resnet, convnextv2 or timm_wrapper, "
            "or correct its settings."
        ) from error


def with_plain_attention(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy with eager attention: flex and flash attention do not run on the meta device, and some not on the CPU."""
    config = copy.deepcopy(config)
    config._attn_implementation = None if is_timm(config) else "eager"  # timm has its own, and warns
    return config


def _trace_on(
    device: str, config: PreTrainedConfig, watch: Callable[[nn.Module], None] | None
) -> tuple[PreTrainedModel, ModelOutput]:
    config = with_plain_attention(config)
    with torch.device(device):
        backbone = AutoModel.from_config(config, trust_remote_code=False, **without_pooler(config)).eval()
    if watch is not None:
        watch(backbone)
    return backbone, trace(backbone, native_image_size(config))


def trace(backbone: PreTrainedModel, size: int) -> ModelOutput:
    """Pass one square image of `size` pixels through a backbone from [`without_weights`]; outputs have shapes only."""
    pixels = torch.zeros(1, num_channels(backbone.config), size, size, device=backbone.device)
    # Not under `torch.device("meta")`: tables that a class computes once for all its models (BEiT's positions) would
    # stay empty.
    outputs = backbone(pixels, return_dict=True, **forward_kwargs(backbone))
    if not isinstance(outputs, ModelOutput):
        raise TypeError(f"its outputs are a {type(outputs).__name__}, not a ModelOutput")
    return outputs


@torch.inference_mode(False)
@torch.enable_grad()  # the caller may have switched gradients off
def describe_backbone(config: PreTrainedConfig, pooling: str) -> BackboneTraits:
    """
    Find how the embedding of a backbone is made, how wide it is, and which parameters take part.

    `pooling` is that of [`LeJEPAConfig`]. If the backbone does not offer it, a `ValueError` lists what it does offer.
    """
    residual_blocks: set[int] = set()
    backbone, outputs = without_weights(config, partial(note_residual_blocks, residual_blocks))
    _check_can_be_saved(backbone)
    states, pooled = final_states(outputs), outputs.get("pooler_output")
    tokens = states is not None and states.ndim == 3
    # Some feature maps of timm have their channels last, which readers of the exported config could not know.
    feature_map = states is not None and states.ndim == 4 and states.shape[2] == states.shape[3]
    # Parameters that hold a single token: weight matrices have no leading dimension of one.
    single = [name for name, p in backbone.named_parameters() if p.ndim == 1 or p.shape[0] == 1]
    possible = {
        "pooler": pooled is not None and pooled.numel() > 0,
        "cls": tokens and any("cls_token" in name or "class_embedding" in name for name in single),
        "mean": tokens or feature_map,
    }
    available = [name for name, yes in possible.items() if yes]
    chosen = pooling
    if pooling == "auto" and available:
        before = setting(config, "embedding_pooling")  # in the config of an exported encoder that this one starts from
        chosen = before if isinstance(before, str) and before in available else available[0]
    if chosen not in available:
        raise ValueError(
            f"`pooling` {pooling!r} cannot be made from a {config.model_type} backbone, which offers "
            f"{', '.join(available) or 'no pooled output, tokens or feature map'}: choose another backbone or pooling."
        )
    embedding = pool(outputs, chosen)
    embedding.sum().backward()
    idle = (name for name, parameter in backbone.named_parameters() if parameter.grad is None)
    return BackboneTraits(chosen, embedding.shape[-1], frozenset(idle), tuple(sorted(residual_blocks)))


def _check_can_be_saved(backbone: PreTrainedModel) -> None:
    """Refuse layers that share weights now, not when the first checkpoint is written hours later."""
    names: dict[int, list[str]] = {}
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shared = next((of_one for of_one in names.values() if len(of_one) > 1), None)
    if shared is not None:
        raise ValueError(
            f"`backbone_config`: layers share weights in this {backbone.config.model_type} backbone "
            f"({' and '.join(shared[:2])}), which safetensors does not store: choose another one."
        )


@torch.no_grad()  # tables that a network keeps from a pass with gradients cannot be copied
def accepted_crop_sizes(config: PreTrainedConfig, requested: dict[str, int]) -> dict[str, int]:
    """
    Find by trial the sizes nearest to the requested ones that a backbone takes, by the names of their fields.

    Only multiples of its patch size are tried, because pixels that do not fill a patch would be dropped silently. If
    the backbone takes none of them, its native size is used.
    """
    backbone, _ = without_weights(config)
    native = native_image_size(config)

    def nearest(size: int) -> int:
        candidates = _candidates(size, patch_size(backbone))
        return next((size for size in candidates if size == native or _takes(backbone, size, native)), native)

    return {field: nearest(size) for field, size in requested.items()}


def _takes(backbone: PreTrainedModel, size: int, native: int) -> bool:
    # Twice the size is tried as well: a single patch is broadcast over any table of positions without an error.
    larger = 2 * size if 2 * size != native else 3 * size
    try:
        for tried in (size, larger):
            trace(copy.deepcopy(backbone), tried)  # a small image shrinks Swin's windows permanently
    except TRACING_ERRORS:
        return False
    return True


def _candidates(requested: int, patch: int | None) -> list[int]:
    """Sizes to try between half and double the requested one, the nearest first."""
    step = patch or _STEP
    multiples = range(max(step, requested // 2 // step * step), 2 * requested + 1, step)
    others = sorted(multiples, key=lambda size: (abs(size - requested), size))
    return others if patch else [requested, *(size for size in others if size != requested)]
