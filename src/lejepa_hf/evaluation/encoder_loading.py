"""load_encoder: an encoder folder, a run folder or an id of the Hub -> model and processor."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BaseImageProcessor, PreTrainedModel

from ..model.backbone import leave_out_classifier
from ..model.foreign_settings import refuse_foreign_settings
from ..model.loading_errors import explained, refuse_not_finite, refuse_unfilled
from ..system.devices import default_device
from ..system.error_text import reason_of
from ..system.run_folder import RunFolder, step_of

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
    """
    The place to load a model from: `encoder/` of a run folder, anything else unchanged. ValueError for a folder of a
    run with a model that is still in training form, and for a run without an encoder; it names the encoder, or how to
    export one.
    """
    folder = Path(encoder)
    inside = RunFolder(folder).encoder
    if (folder / "config.json").is_file():
        if _is_in_training_form(folder):
            raise ValueError(f"`encoder` {str(encoder)!r} is the model with its projector: {_exported_from(folder)}.")
        return encoder
    if (inside / "config.json").is_file():
        return inside
    if RunFolder(folder).is_begun():
        raise ValueError(f"`encoder` {str(encoder)!r} is a run without encoder/: {_exported_by(RunFolder(folder))}.")
    return encoder


def _is_in_training_form(folder: Path) -> bool:
    """Whether this is `pretraining/` of a run, or one of its checkpoints."""
    text = (folder / "config.json").read_text(encoding="utf-8", errors="replace")  # which may be damaged
    return '"model_type": "lejepa"' in text


def _exported_from(folder: Path) -> str:
    """Which folder to use instead of `pretraining/` or a checkpoint."""
    run = RunFolder(folder.resolve().parent if folder.parent == Path() else folder.parent)
    step = step_of(folder)
    exported = run.encoder if step is None else run.exported(folder)
    if (exported / "config.json").is_file():
        return f"use {str(exported)!r}"
    return f"export its encoder with `lejepa export {folder}`"


def _exported_by(run: RunFolder) -> str:
    checkpoints = run.checkpoints()
    if (run.pretraining / "config.json").is_file():
        return f"`lejepa export {run.path}` writes it"
    if checkpoints:
        return f"it has not ended; `lejepa export {checkpoints[-1]}` writes that of its last checkpoint"
    return "it has not ended, and has no checkpoint yet"
