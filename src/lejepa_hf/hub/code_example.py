"""What the code on a card must know of the encoder beside it."""

import json
from pathlib import Path

import transformers
from transformers import AutoConfig
from transformers.backbone_utils import BackboneMixin

from ..model.architecture import forward_kwargs, num_channels


def usage_of(folder: str | Path) -> dict:
    """
    Args:
        folder (`str` or `Path`): Exported encoder.

    Returns:
        `dict`: `class_name`; `channels`; `pooling`, how the trained embedding is made; `states`, the output that it is
        made from; `interpolate`, whether the class wants to be told that images have another size than its positions;
        `pixel_range`, two numbers or None; `crop_size` in pixels, None if the processor has none.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder)
    native = getattr(transformers, config.architectures[0])
    processor = folder / "preprocessor_config.json"
    processor = json.loads(processor.read_text(encoding="utf-8")) if processor.is_file() else {}
    side = (processor.get("crop_size") or {}).get("height")
    own_side = getattr(config, "image_size", None)
    fits = side is None or own_side in (None, side, [side, side], (side, side))
    return {
        "class_name": config.architectures[0],
        "channels": num_channels(config),
        "pooling": config.embedding_pooling,
        "states": "feature_maps[-1]" if issubclass(native, BackboneMixin) else "last_hidden_state",
        "interpolate": not fits and bool(forward_kwargs(native)),
        "pixel_range": processor.get("pixel_range"),
        "crop_size": side,
    }
