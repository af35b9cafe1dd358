"""An encoder folder that timm reads as well as transformers."""

from pathlib import Path

from transformers import PreTrainedModel
from transformers.image_utils import PILImageResampling

# What timm needs to know of an architecture to load its weights with another head or other channels.
_OF_THE_ARCHITECTURE = ("classifier", "first_conv", "fixed_input_size", "pool_size")


def save_timm_wrapper(model: PreTrainedModel, processor, folder: str | Path) -> None:
    """
    Save under timm's own names of weights and with its settings in config.json, as timm's repositories on the Hub are.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads the folder, `AutoModel` too.

    Args:
        model (`TimmWrapperModel`): With a config of its own, which is completed.
        processor (`ImageProcessor`): What the encoder was trained to see; timm builds the same transform from it.
        folder (`str` or `Path`): Where to write.
    """
    architecture = model.timm_model.pretrained_cfg
    seen = processor.to_dict()
    side = (seen.get("crop_size") or seen["size"])["height"]
    resized = seen["size"].get("shortest_edge", side)
    model.config.pretrained_cfg = {
        **{key: architecture[key] for key in _OF_THE_ARCHITECTURE if key in architecture},
        "input_size": [len(seen["image_mean"]), side, side],
        "crop_pct": side / resized,
        "interpolation": PILImageResampling(seen["resample"]).name.lower(),
        "mean": list(seen["image_mean"]),
        "std": list(seen["image_std"]),
    }
    # The default of two labels would give the encoder a head in timm.
    model.config.num_labels, model.config.label_names = 0, []
    model.config.model_args = model.config.model_args or {}  # timm takes no null
    model.save_pretrained(folder, state_dict=model.timm_model.state_dict())
