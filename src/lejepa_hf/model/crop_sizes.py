"""The crop sizes that a backbone takes, and the nearest one to a requested size."""

import copy

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .architecture import native_image_size, patch_size
from .tracing import TRACING_ERRORS, trace, without_weights

_STEP = 8  # pixels between the sizes that are tried where the patch size is unknown


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
