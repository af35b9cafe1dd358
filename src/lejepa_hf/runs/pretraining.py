"""The story of a run: recipe -> data, model, trainer -> encoder, evaluation, pictures, card."""

import dataclasses
import errno
import logging
import sys
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from ..configuration_lejepa import LeJEPAConfig
from ..data.collator import MultiCropCollator
from ..data.errors import DataError
from ..data.multi_crop import MultiCropTransform
from ..data.reader_state import read_positions
from ..data.sources import ImageSource
from ..evaluation.labelled_sources import check_labels
from ..evaluation.protocols.registry import check_protocols
from ..hub.checkpoint_push import CheckpointPush, prepare_repository
from ..hub.export import build_processor
from ..hub.push import push_run
from ..model.backbone import pretrained_config
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.devices import cores_of_this_process
from ..system.run_folder import RunFolder
from ..trainer import LeJEPATrainer
from ..training.checkpoints import CheckpointNotWritten, resolve_resume
from ..training.preemption import EXIT_STATUS
from ..training_args import LeJEPATrainingArguments
from .continuing import continue_model, find_start
from .finishing import RunNotFinished, finish_run
from .recipe_sources import held_out_source, open_split, training_source
from .recipes import ModelArguments, Recipe, parse_recipe
from .view_fitting import fit_views

logger = logging.getLogger("lejepa_hf")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: list[str] | None = None) -> int:
    """
    `train.py RECIPE [--key value ...]`.

    Args:
        arguments (`list[str]`, *optional*): The command line; that of the process if missing.

    Returns:
        `int`: Exit status: 0; 2 with one line on stderr if the recipe, the data, the launch or the folder cannot be
        used; 1 with one line if the loss became NaN or infinite, the data cannot be read on, a checkpoint cannot be
        written, or the finished run cannot be pushed; 143 (128 + SIGTERM) if SIGTERM ended it, with a checkpoint.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write("usage: train.py RECIPE [--key value ...]   (a recipe is a YAML file in recipes/)\n")
        return 0 if arguments else 2
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    disable_progress_bar()  # of loading and saving weights; the Trainer's own stays
    try:
        recipe = parse_recipe(arguments[0], arguments[1:])
        logger.setLevel(logging.INFO if recipe.training.process_index == 0 else logging.WARNING)
        trainer, held_out = build(recipe)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    try:
        return run(recipe, trainer, held_out)
    except (FloatingPointError, DataError, CheckpointNotWritten, RunNotFinished) as error:
        sys.stderr.write(f"\nerror: {error}\n")
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        sys.stderr.write(f"\nerror: {error}. Make room, then continue with `--resume`.\n")
    return 1


def build(recipe: Recipe) -> tuple[LeJEPATrainer, ImageSource | None]:
    """
    Everything that can refuse a run, before any long work.

    Args:
        recipe ([`Recipe`]): What to do.

    Returns:
        `tuple`: the trainer, and the held-out source if there is something to evaluate on.

    Raises:
        ValueError: If the folder, the network, the crops or the data cannot be used; the message says what to change.
    """
    data, training = recipe.data, recipe.training
    if training.process_index == 0:  # later ranks may look when the first one writes already
        RunFolder(training.output_dir).claim(training.resume)
    if training.resume is not None:
        checkpoint = resolve_resume(training.resume, training.output_dir)
        training.resume = None if checkpoint is None else str(checkpoint)
    if training.resume is not None:
        read_positions(training.resume)  # refuses a checkpoint that does not have them
    check_protocols(data.eval_protocols, at_the_end_of_training=True)
    _share_cores(training)
    set_seed(training.seed)
    start = find_start(recipe)
    if recipe.model.continue_from is not None:
        model = continue_model(recipe.model, start, training.seed)
    else:
        model = build_model(recipe.model, training.seed)
    fit_views(model.config.backbone_config, recipe, start)
    source = training_source(data)
    held_out = held_out_source(data)
    if held_out is not None:  # the evaluation at the end fits its protocols on labelled training images
        for labelled in (held_out, source if data.mixture is None else open_split(data, data.train_split)):
            check_labels(labelled)
    logger.info(
        f"{source.name}: {source.num_images or 'a stream of'} images; "
        f"{model.config.backbone_config.model_type} encoder with "
        f"{sum(p.numel() for p in model.encoder.parameters()):,} parameters"
    )
    views = MultiCropTransform.from_settings(data, training.seed)
    if training.push_to_hub and training.process_index == 0:
        prepare_repository(training)
    pushes_checkpoints = training.push_to_hub and training.hub_strategy != "end"
    trainer = LeJEPATrainer(
        model=model,
        args=training if pushes_checkpoints else dataclasses.replace(training, push_to_hub=False),
        train_dataset=source.dataset,
        eval_dataset=_with_columns_of(source, held_out) if held_out is not None else None,
        data_collator=MultiCropCollator(views, source.image_column, source.label_column),
        processing_class=build_processor(
            data.global_crop_size, data.eval_crop_ratio, data.image_mean, data.image_std, data.pixel_range
        ),
        callbacks=[CheckpointPush(training)] if pushes_checkpoints else None,
    )
    if training.resume is not None:
        trainer.check_resume(training.resume)
    return trainer, held_out


def _share_cores(training: LeJEPATrainingArguments) -> None:
    """
    One core for each loader worker, the others for training: launchers give a CPU process one thread, however many
    cores there are, PyTorch gives it all of them, and threads that wait for a worker's core cost ten times as much.
    """
    threads = max(1, cores_of_this_process() - training.dataloader_num_workers)
    before = torch.get_num_threads()
    if training.device.type == "cpu" and (before == 1 or before > threads) and threads != before:
        torch.set_num_threads(threads)
        logger.info(f"{threads} of {cores_of_this_process()} cores train, instead of {before}.")


def build_model(arguments: ModelArguments, seed: int = 0) -> LeJEPAForPreTraining:
    """The model a recipe asks for, fresh or warm-started; `seed` fixes its directions."""
    if arguments.pretrained_backbone is None:
        return LeJEPAForPreTraining(build_config(arguments, seed))
    return LeJEPAForPreTraining.from_pretrained_backbone(
        arguments.pretrained_backbone, **arguments.config_kwargs(), directions_seed=seed
    )


def build_config(arguments: ModelArguments, seed: int = 0, start: str | Path | None = None) -> LeJEPAConfig:
    """The config of a run's model, without its weights; `start` as [`find_start`] has it."""
    if arguments.continue_from is not None:
        backbone = LeJEPAConfig.from_pretrained(start).backbone_config
    else:
        backbone = arguments.backbone_config or pretrained_config(arguments.pretrained_backbone)
    return LeJEPAConfig(backbone_config=backbone, **arguments.config_kwargs(), directions_seed=seed)


def _with_columns_of(source: ImageSource, held_out: ImageSource):
    """The held-out images under the names that those to train on have; a mixture has names of its own."""
    dataset = held_out.dataset
    pairs = ((held_out.image_column, source.image_column), (held_out.label_column, source.label_column))
    for name, wanted in pairs:
        if wanted is not None and name != wanted:
            dataset = dataset.rename_column(name, wanted)
    return dataset


def run(recipe: Recipe, trainer: LeJEPATrainer, held_out: ImageSource | None) -> int:
    """
    Train, save, export, evaluate, draw, and say where everything is.

    Args:
        recipe ([`Recipe`]): What to do.
        trainer ([`LeJEPATrainer`]): From [`build`].
        held_out ([`ImageSource`], *optional*): Labelled images for the evaluation.

    Returns:
        `int`: 0, or 143 if SIGTERM ended the training.
    """
    folder = Path(recipe.training.output_dir)
    if trainer.is_world_process_zero():
        RunFolder(folder).write_start(recipe.resolved(), recipe.training.to_dict(), recipe.training.resume)
    trainer.train(resume_from_checkpoint=recipe.training.resume)
    if trainer.preempted:
        trainer.accelerator.end_training()
        logger.info(
            f"Stopped by SIGTERM. The same command with `--resume` continues at step {trainer.state.global_step}."
        )
        return EXIT_STATUS
    trainer.save_model(str(folder / "pretraining"))
    if trainer.encoder_average is not None:
        trainer.encoder_average.save_state(folder / "pretraining")
    # The first rank goes on alone: from here on nothing may wait for the others, SIGReg's sums over ranks included.
    trainer.accelerator.end_training()
    if not trainer.is_world_process_zero():
        return 0
    finish_run(recipe, _facts(trainer), held_out)
    return _push(recipe, trainer) if recipe.training.push_to_hub else 0


def _facts(trainer: LeJEPATrainer) -> dict:
    device = trainer.args.device
    return {
        "steps": trainer.state.global_step,
        "global_batch": trainer.global_batch,
        "epochs": trainer.state.epoch,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads",
        "encoder_parameters": sum(p.numel() for p in trainer.model.encoder.backbone.parameters()),
        "energy_source": trainer.energy.source,
    }


def _push(recipe: Recipe, trainer: LeJEPATrainer) -> int:
    """The checkpoints that are still under way, then the run. It is complete on disk, whatever the Hub says."""
    training = recipe.training
    checkpoint_push = trainer.pop_callback(CheckpointPush)
    if checkpoint_push is not None:
        checkpoint_push.finish()
    enable_progress_bar()
    revision = ["--revision", training.hub_revision] if training.hub_revision else []
    try:
        url = push_run(
            training.output_dir,
            training.hub_model_id,
            training.hub_private_repo,
            training.hub_revision,
            training.hub_token,
        )
    except (ValueError, OSError) as error:
        command = " ".join(["lejepa push", training.output_dir, training.hub_model_id, *revision])
        sys.stderr.write(f"\nerror: {error} The run is complete and only not pushed: `{command}`.\n")
        return 1
    logger.info(f"Pushed to {url}")
    return 0
