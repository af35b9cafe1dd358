"""A finished run or model -> an encoder folder of the backbone's native class, which loads without this package."""

from pathlib import Path

from transformers import AutoImageProcessor, BitImageProcessor
from transformers.utils import logging

from ..backbone.facts import native_image_size, num_channels
from ..backbone.standalone import as_standalone
from ..encoder_average import load_average
from ..modeling_lejepa import LeJEPAForPreTraining, LeJEPAModel
from .model_card import write_model_card

logger = logging.get_logger(__name__)

_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


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

    Args:
        run_or_model (`str`, `Path` or model): A run folder, one of its checkpoints, or a model.
        folder (`str` or `Path`, *optional*): Where to write; `encoder/` in the run folder if missing, or
            `encoder_averaged/`.
        processor (`ImageProcessor`, *optional*): The one saved with the run if missing.
        averaged (`bool`, *optional*, defaults to `False`): Instead of the weights themselves their moving average, of
            a run with `ema_decay`.

    Returns:
        `Path`: `folder`.

    Raises:
        ValueError: If there is no model in the run folder, no average of it, or no folder to write to.
    """
    source = None
    if isinstance(run_or_model, str | Path):
        source = Path(run_or_model)
        source = source / "pretraining" if (source / "pretraining").is_dir() else source
        if not (source / "config.json").is_file():
            raise ValueError(
                f"{str(run_or_model)!r} holds neither pretraining/ nor a checkpoint: no config.json there."
            )
        run_or_model = LeJEPAForPreTraining.from_pretrained(source)
    elif averaged:
        raise ValueError("`averaged` needs a run folder or a checkpoint: a model has no average with it.")
    if folder is None:
        if source is None:
            raise ValueError("`folder` is needed to export a model that is not a run folder.")
        folder = source.parent / ("encoder_averaged" if averaged else "encoder")
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
    as_standalone(model.backbone, model.pooling).save_pretrained(folder)
    processor.save_pretrained(folder)
    # Results and losses of the run are those of its last step, not of a checkpoint on the way there.
    run = source.parent if source is not None else None
    write_model_card(folder, run, is_final=source is not None and source.name == "pretraining", ema_decay=ema_decay)
    return Path(folder)
