"""load_encoder: an encoder folder, a run folder or an id of the Hub -> model and processor."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel

from ..model.backbone import leave_out_classifier
from ..model.foreign_settings import refuse_foreign_settings
from ..model.loading_errors import explained, refuse_not_finite, refuse_unfilled
from ..system.devices import default_device
from ..system.error_text import reason_of

LoadedEncoder = tuple[PreTrainedModel, BaseImageProcessor]


def load_encoder(encoder: str | Path, device: str | None = None) -> LoadedEncoder:
    """
    Load an encoder, in fp32 and evaluation mode, and its processor.

    A pooler whose weights are not in the checkpoint would get random ones: it is left out, and the class token is the
    embedding.

    Args:
        encoder (`str` or `Path`): Folder or Hub id of any vision model that `AutoModel` loads, or a run folder with
            one in `encoder/`.
        device (`str`, *optional*): Device for the model. If missing, the accelerator if there is one, or the CPU.

    Raises:
        ValueError: If the encoder cannot be found, read or stored, its weights are missing, NaN or infinite, or the
            device does not exist.
    """
    try:
        place = torch.empty(0, device=device or default_device()).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` {device!r} cannot be used here: {reason_of(error)}") from error
    folder = find_encoder(encoder)
    with explained("encoder", encoder, folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        refuse_foreign_settings(config)
        leave_out_classifier(config)
        # Stored in half precision, an encoder would embed and train with other errors than those it is compared with.
        model, loaded = AutoModel.from_pretrained(
            folder, config=config, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
        )
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    refuse_unfilled("encoder", encoder, model.config.model_type, loaded, may_miss="pooler.")
    if loaded["missing_keys"]:
        model.pooler, model.config.embedding_pooling = None, "cls"
    model = model.eval().to(place)
    refuse_not_finite("encoder", encoder, model)
    return model, processor


def find_encoder(encoder: str | Path) -> str | Path:
    """The place to load a model from: `encoder/` of a run folder, anything else unchanged."""
    inside = Path(encoder) / "encoder"
    is_run = (inside / "config.json").is_file() and not (Path(encoder) / "config.json").is_file()
    return inside if is_run else encoder
