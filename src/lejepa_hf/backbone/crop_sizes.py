"""Which crops a backbone takes."""

from transformers import PreTrainedConfig

from .facts import native_image_size
from .pooling import trace_shapes


def check_crop_size(config: PreTrainedConfig, field: str, size: int) -> None:
    """
    Raises:
        ValueError: If crops of `size` pixels do not divide into the backbone's patches, or it cannot take them at all.
    """
    patch_size = getattr(config, "patch_size", None)
    patch_size = patch_size[0] if isinstance(patch_size, list | tuple) else patch_size
    if isinstance(patch_size, int) and size % patch_size:
        lower = size // patch_size * patch_size
        options = f"{lower} or {lower + patch_size}" if lower else f"{patch_size}"
        raise ValueError(
            f"`{field}` {size} is not a multiple of the {config.model_type} backbone's patch size {patch_size}, "
            f"pixels would be dropped silently: use {options}."
        )
    try:
        trace_shapes(config, size)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"`{field}` {size} cannot be taken by the {config.model_type} backbone ({reason}): choose a larger crop "
            f"or one near the backbone's own size, {native_image_size(config)}."
        ) from error
