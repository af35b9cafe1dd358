"""What the example code on a card depends on."""

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig
from transformers.backbone_utils import BackboneMixin

from ..model.architecture import forward_kwargs, num_channels


def usage_of(folder: str | Path) -> dict[str, Any]:
    """
    How to use an exported encoder: names of classes and outputs, `pixel_range` or None, `crop_size` in pixels or None;
    `interpolate`, whether the class needs an argument for images of another size than its positions.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    native = getattr(transformers, config.architectures[0])
    file = folder / "preprocessor_config.json"
    processor = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
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
