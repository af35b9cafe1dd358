"""Which crops a backbone takes, and the nearest one to what was asked for."""

import copy

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .architecture import native_image_size, patch_size
from .tracing import TRACING_ERRORS, trace, without_weights

_STEP = 8  # pixels between the sizes that are tried where nothing is known of patches


@torch.no_grad()  # tables that a network keeps from a pass with gradients cannot be copied
def accepted_crop_sizes(config: PreTrainedConfig, requested: dict[str, int]) -> dict[str, int]:
    """
    The sizes that a backbone takes, found by trying: what was asked for, else the nearest multiple of its patch size
    (pixels that fill no patch would be dropped silently), else the size it was made for.

    Args:
        config (`PreTrainedConfig`): The backbone's config.
        requested (`dict[str, int]`): Side in pixels by the name of its field, e.g. `{"local_crop_size": 98}`.

    Returns:
        `dict[str, int]`: The same fields.
    """
    backbone, _ = without_weights(config)
    native = native_image_size(config)

    def nearest(size: int) -> int:
        candidates = _candidates(size, patch_size(backbone))
        return next((size for size in candidates if size == native or _takes(backbone, size, native)), native)

    return {field: nearest(size) for field, size in requested.items()}


def _takes(backbone: PreTrainedModel, size: int, native: int) -> bool:
    # Twice the size as well: a single patch is added to any table of positions by broadcasting, and then stands at all
    # of them at once.
    larger = 2 * size if 2 * size != native else 3 * size
    try:
        for tried in (size, larger):
            trace(copy.deepcopy(backbone), tried)  # Swin's windows shrink for good where an image is small
    except TRACING_ERRORS:
        return False
    return True


def _candidates(requested: int, patch: int | None) -> list[int]:
    """Sizes to try, the nearest first; half and double of what was asked for are as far as it goes."""
    step = patch or _STEP
    multiples = range(max(step, requested // 2 // step * step), 2 * requested + 1, step)
    others = sorted(multiples, key=lambda size: (abs(size - requested), size))
    return others if patch else [requested, *(size for size in others if size != requested)]
