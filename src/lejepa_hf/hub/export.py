"""A finished run or model -> an encoder folder of the backbone's native class, which loads without this package."""

import shutil
from pathlib import Path

from transformers import AutoImageProcessor, BitImageProcessor
from transformers.utils import logging

from ..model.architecture import is_timm, native_image_size, num_channels
from ..model.native_class import as_standalone
from ..modeling_lejepa import LeJEPAForPreTraining, LeJEPAModel
from ..system.durable_files import complete_folder
from ..system.run_folder import RunFolder, step_of
from ..training.encoder_average import load_average
from .model_card import is_in_training, write_model_card
from .trained_model import read_trained_model, trained_folder

logger = logging.get_logger(__name__)

_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# What an earlier export may have left, in more files than this one or as ONNX.
_OF_OTHER_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "model.onnx*")


def build_processor(
    crop_size: int,
    crop_ratio: float = 0.875,
    image_mean: list[float] | None = None,
    image_std: list[float] | None = None,
    pixel_range: list[float] | None = None,
) -> BitImageProcessor:
    """
    The evaluation-time pipeline: shortest side to `crop_size / crop_ratio`, centre crop, normalise.

    Takes 8-bit images of as many channels as `image_mean` is long; only for 3 are images converted to RGB. Arrays of
    other than 1, 3 or 4 channels need `input_data_format="channels_last"` at each call.

    Args:
        crop_size (`int`): Side in pixels of what the encoder sees.
        crop_ratio (`float`, *optional*, defaults to 0.875): Share of the resized side that is kept, in (0, 1].
        image_mean (`list[float]`, *optional*): Per channel, ImageNet's if missing.
        image_std (`list[float]`, *optional*): Per channel. If missing, ImageNet's for 3 channels and 0.5 for others.
        pixel_range (`list[float]`, *optional*): Kept in the processor's file for evaluations and users, who bring
            arrays and 16-bit images from this range to 0 to 255; see [`~data.view_settings.ViewSettings`].

    Returns:
        `BitImageProcessor`: Saved beside the weights, so that `AutoImageProcessor` finds it.
    """
    image_mean = image_mean or _IMAGENET_MEAN
    is_rgb = len(image_mean) == 3
    kept = {} if pixel_range is None else {"pixel_range": pixel_range}
    return BitImageProcessor(
        size={"shortest_edge": round(crop_size / crop_ratio)},
        crop_size={"height": crop_size, "width": crop_size},
        resample=3,
        image_mean=image_mean,
        image_std=image_std or (_IMAGENET_STD if is_rgb else [0.5] * len(image_mean)),
        do_convert_rgb=is_rgb,
        **kept,
    )


def export_encoder(
    run_or_model: str | Path | LeJEPAForPreTraining | LeJEPAModel,
    folder: str | Path | None = None,
    processor=None,
    averaged: bool = False,
) -> Path:
    """
    Write the encoder as a model of its native transformers class, with processor and card.

    Needs and changes no training state. `AutoModel.from_pretrained(folder)` gives the trained embedding as
    `pooler_output`; where the native class cannot express the pooling, `config.embedding_pooling` says `"mean"` or
    `"cls"`: the mean of `last_hidden_state` or its first token.

    The files are written aside and take their names when all are complete; other files in `folder` stay.

    Args:
        run_or_model (`str`, `Path` or model): A run folder, its `pretraining/`, one of its checkpoints (FSDP's, in
            shards, too), or a model.
        folder (`str` or `Path`, *optional*): Where to write. If missing, beside what is read: `encoder/` in the run
            folder for a run, `encoder-400/` for its `checkpoint-400`; `encoder_averaged/` and `encoder_averaged-400/`
            for averages.
        processor (`ImageProcessor`, *optional*): The one saved with the run if missing.
        averaged (`bool`, *optional*, defaults to `False`): Instead of the weights themselves their moving average, of
            a run with `ema_decay`.

    Returns:
        `Path`: `folder`.

    Raises:
        ValueError: If there is no readable model in the run folder, no average of it, no folder to write to, or
            training state in that folder.
        OSError: If the files cannot be written; what was in `folder` is as it was.
    """
    source = None
    if isinstance(run_or_model, str | Path):
        source = trained_folder(run_or_model)
    elif averaged:
        raise ValueError("`averaged` needs a run folder or a checkpoint: a model has no average with it.")
    folder = _default_folder(source, averaged) if folder is None else Path(folder)
    if is_in_training(folder):
        raise ValueError(f"`folder` {str(folder)!r} holds a model in training, which would be lost: choose another.")
    if source is not None:
        run_or_model = read_trained_model(source)
    model = run_or_model.encoder if isinstance(run_or_model, LeJEPAForPreTraining) else run_or_model
    ema_decay = load_average(model, source) if averaged else None
    if processor is None and source is not None and (source / "preprocessor_config.json").is_file():
        processor = AutoImageProcessor.from_pretrained(source)
    if processor is None:
        channels = num_channels(model.backbone.config)
        mean, kind = (
            (None, "ImageNet's") if channels == 3 else ([0.5] * channels, f"a plain one of {channels} channels")
        )
        processor = build_processor(native_image_size(model.backbone.config), image_mean=mean)
        logger.warning(f"No processor came with the model; writing {kind} for {processor.crop_size['height']} pixels.")
    # Results and losses of the run are those of its last step, not of a checkpoint on the way there.
    run = source.parent if source is not None else None
    is_final = source is not None and source.name == "pretraining"
    with complete_folder(folder, _OF_OTHER_WEIGHTS) as aside:
        standalone = as_standalone(model.backbone, model.pooling)
        # Under timm's own names, as in its repositories: timm reads them without the wrapper, the wrapper does too.
        weights = standalone.timm_model.state_dict() if is_timm(standalone.config) else None
        standalone.save_pretrained(aside, state_dict=weights)
        for file in aside.glob("*.safetensors"):  # safetensors lets nobody but their owner read them
            shutil.copymode(aside / "config.json", file)
        processor.save_pretrained(aside)
        write_model_card(aside, run, is_final=is_final, ema_decay=ema_decay)
    return folder


def _default_folder(source: Path | None, averaged: bool) -> Path:
    run = RunFolder(source.parent) if source is not None else None
    if run is not None and source == run.pretraining:
        return run.averaged_encoder if averaged else run.encoder
    if run is not None and source is not None and step_of(source) is not None:
        return run.exported(source, averaged)  # not inside a checkpoint, which is deleted when newer ones are saved
    raise ValueError("`folder` is needed to export what is neither a run folder nor one of its checkpoints.")
