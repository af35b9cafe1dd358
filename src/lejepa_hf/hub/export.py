"""A finished run or model -> an encoder folder of the backbone's native class, which loads without this package."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoImageProcessor
from transformers.image_processing_base import ImageProcessingMixin as BaseImageProcessor
from transformers.utils import logging

from ..evaluation.pixel_values import build_processor
from ..model.architecture import is_timm, native_image_size, num_channels
from ..model.backbone import as_native_class
from ..model.loading_errors import refuse_not_finite
from ..modeling_lejepa import LeJEPAForPreTraining, LeJEPAModel
from ..system.durable_files import complete_folder
from ..system.run_folder import RunFolder, step_of, write_json
from ..training.encoder_average import load_average
from .model_card import is_in_training, write_model_card
from .trained_model import read_trained_model, trained_folder

if TYPE_CHECKING:
    from ..trainer import LeJEPATrainer

logger = logging.get_logger(__name__)

# Files that an earlier export may have left: more parts of weights, or ONNX.
_OF_OTHER_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "model.onnx*")
# Of transformers, and of timm's wrapper, which writes the names LABEL_0 and LABEL_1 even without a head.
_OF_A_HEAD = ("id2label", "label2id", "label_names", "num_classes")


def export_encoder(
    run_or_model: "str | Path | LeJEPAForPreTraining | LeJEPAModel | LeJEPATrainer",
    folder: str | Path | None = None,
    processor: BaseImageProcessor | None = None,
    averaged: bool = False,
) -> Path:
    """
    Write the encoder as a model of its native transformers class, with processor and card.

    Training state is neither needed nor changed. `AutoModel.from_pretrained(folder)` returns the trained embedding as
    `pooler_output`; where the native class cannot express the pooling, `config.embedding_pooling` is `"mean"` or
    `"cls"`: the mean of `last_hidden_state` or its first token.

    The files take their names when all of them are complete; other files in `folder` stay.

    Args:
        run_or_model (`str`, `Path`, model or Trainer): A run folder, its `pretraining/`, one of its checkpoints
            (FSDP's, in shards, too), a model, or a [`LeJEPATrainer`], whose model is written.
        folder (`str` or `Path`, *optional*): Folder to write. If missing, `encoder/` in the run folder for a run and
            `encoder-400/` for its `checkpoint-400`; `encoder_averaged/` and `encoder_averaged-400/` for averages. For
            a Trainer, `encoder/` in its `output_dir`.
        processor (`ImageProcessor`, *optional*): Image processor. If missing, that of the Trainer, or the one saved
            with the run.
        averaged (`bool`, *optional*, defaults to `False`): Export the moving average of the weights instead, for a
            run with `ema_decay`.

    Returns:
        `Path`: `folder`.

    Raises:
        ValueError: If there is no readable model in the run folder, no average of it, no folder to write to, training
            state in that folder, or the Trainer's model is in shards.
        OSError: If the files cannot be written; `folder` is then unchanged.
    """
    if not isinstance(run_or_model, str | Path | LeJEPAForPreTraining | LeJEPAModel):
        run_or_model, folder, processor = _trained_by(run_or_model, folder, processor)
    source = trained_folder(run_or_model) if isinstance(run_or_model, str | Path) else None
    if averaged and source is None:
        raise ValueError("`averaged` needs a run folder or a checkpoint: a model alone has no average.")
    folder = _default_folder(source, averaged) if folder is None else Path(folder)
    if is_in_training(folder):
        raise ValueError(f"`folder` {str(folder)!r} holds a model in training, which would be lost: choose another.")
    model = read_trained_model(trained_folder(run_or_model)) if isinstance(run_or_model, str | Path) else run_or_model
    encoder = model.encoder if isinstance(model, LeJEPAForPreTraining) else model
    ema_decay = load_average(encoder, source) if averaged and source is not None else None
    if ema_decay is not None and source is not None:
        refuse_not_finite("run", source, encoder)
    if processor is None:
        processor = _processor_of(encoder, source)
    # Results and losses of the run are those of its last step, not of an earlier checkpoint.
    run = source.parent if source is not None else None
    is_final = source is not None and source == RunFolder(source.parent).pretraining
    with complete_folder(folder, _OF_OTHER_WEIGHTS) as aside:
        standalone = as_native_class(encoder.backbone, encoder.pooling)
        # Under timm's own names, as in its repositories: timm reads them without the wrapper, the wrapper does too.
        network = standalone.get_submodule("timm_model") if is_timm(standalone.config) else None
        standalone.save_pretrained(aside, state_dict=network.state_dict() if network is not None else None)
        _drop_head(aside / "config.json")
        for file in aside.glob("*.safetensors"):  # safetensors makes them readable by their owner only
            shutil.copymode(aside / "config.json", file)
        processor.save_pretrained(aside)
        write_model_card(aside, run, is_final=is_final, ema_decay=ema_decay)
    return folder


def _trained_by(
    trainer: "LeJEPATrainer", folder: str | Path | None, processor: BaseImageProcessor | None
) -> tuple[LeJEPAForPreTraining, str | Path, BaseImageProcessor]:
    """Model, folder and processor of a Trainer, where they were not given."""
    from ..trainer import LeJEPATrainer  # which takes seconds

    if not isinstance(trainer, LeJEPATrainer):
        kind = type(trainer).__name__
        raise TypeError(f"`run_or_model` must be a run folder, a model of LeJEPA or a LeJEPATrainer, got {kind}.")
    if trainer.is_fsdp_enabled:
        raise ValueError(
            "`run_or_model` is a Trainer whose model is in shards: export what `trainer.save_model(folder)` writes."
        )
    default = RunFolder(str(trainer.args.output_dir)).encoder
    return trainer.model, default if folder is None else folder, processor or trainer.processing_class


def _drop_head(config: Path) -> None:
    """Take the classes of a head out of a config: a classifier that starts from the encoder would get their names."""
    values = json.loads(config.read_text(encoding="utf-8"))
    kept = {name: value for name, value in values.items() if name not in _OF_A_HEAD}
    if "num_classes" in values:
        kept["num_classes"] = 0  # the wrapper cannot do without it
    write_json(config, kept)


def _processor_of(encoder: LeJEPAModel, source: Path | None) -> BaseImageProcessor:
    """The processor saved with a model, or one for its size and channels."""
    if source is not None and (source / "preprocessor_config.json").is_file():
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    config = encoder.backbone.config
    channels, size = num_channels(config), native_image_size(config)
    kind = "ImageNet's" if channels == 3 else f"a plain one of {channels} channels"
    logger.warning(f"No processor came with the model; writing {kind} for {size} pixels.")
    return build_processor(size, image_mean=None if channels == 3 else [0.5] * channels)


def _default_folder(source: Path | None, averaged: bool) -> Path:
    if source is not None:
        run = RunFolder(source.parent)
        if source == run.pretraining:
            return run.averaged_encoder if averaged else run.encoder
        if step_of(source) is not None:
            return run.exported(source, averaged)  # not inside a checkpoint, which newer ones replace
    raise ValueError("`folder` is needed to export what is neither a run folder nor one of its checkpoints.")
