"""Which crops a backbone takes, and the nearest one to what was asked for."""

from transformers import PreTrainedConfig, PreTrainedModel

from .facts import native_image_size, patch_size
from .pooling import final_states
from .tracing import TRACING_ERRORS, shapes_of, trace

_STEP = 8  # pixels between the sizes that are tried where nothing is known of patches


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
    backbone = shapes_of(config)
    return {field: _nearest(backbone, size) for field, size in requested.items()}


def _nearest(backbone: PreTrainedModel, requested: int) -> int:
    tried = (size for size in _candidates(requested, patch_size(backbone)) if _takes(backbone, size))
    return next(tried, native_image_size(backbone.config))


def _takes(backbone: PreTrainedModel, size: int) -> bool:
    native = native_image_size(backbone.config)
    if size == native:
        return True
    try:
        states = final_states(trace(backbone, size))
    except TRACING_ERRORS:
        return False
    if states is None or states.ndim != 3 or states.shape[1] == 1:
        return True
    # A single patch is added to any table of positions by broadcasting, and stands at all of them at once.
    return states.shape[1] != final_states(trace(backbone, native)).shape[1]


def _candidates(requested: int, patch: int | None) -> list[int]:
    """Sizes to try, the nearest first; half and double of what was asked for are as far as it goes."""
    step = patch or _STEP
    multiples = range(max(step, requested // 2 // step * step), 2 * requested + 1, step)
    others = sorted(multiples, key=lambda size: (abs(size - requested), size))
    return others if patch else [requested, *(size for size in others if size != requested)]
