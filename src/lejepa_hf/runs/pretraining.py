"""The story of a run: recipe -> data -> model -> trainer -> run folder with encoder, evaluation, pictures, card."""

import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from ..data.collator import MultiCropCollator
from ..data.errors import DataError
from ..data.found_images import logged_description
from ..data.multi_crop import MultiCropTransform
from ..data.sources import ImageSource
from ..hub.checkpoint_push import CheckpointPush, prepare_repository
from ..hub.export import build_processor
from ..hub.push import push_run
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.devices import cores_of_this_process
from ..system.distributed import (
    OtherRankFailed,
    explain_lost_process,
    failing_together,
    is_lost_process,
    world_size,
)
from ..system.durable_files import NO_ROOM
from ..system.progress_bars import are_hidden, hidden_progress_bars
from ..system.quiet import is_quiet
from ..system.run_folder import RunFolder
from ..trainer import LeJEPATrainer
from ..training.checkpoints import CheckpointNotWritten
from ..training.launch_checks import check_same_everywhere
from ..training.preemption import EXIT_STATUS, INTERRUPTED, second_interrupt_ends
from ..training_args import LeJEPATrainingArguments
from .finishing import RunNotFinished, finish_run
from .initial_model import build_model
from .own_images import with_recipe
from .recipe_help import USAGE, format_help
from .recipe_sources import RunSources, open_sources
from .recipes import Recipe, parse_recipe
from .resolving import ResolvedRecipe, resolve
from .shared_embeddings import embed_together

logger = logging.getLogger("lejepa_hf")

# Names of files, and what follows from a machine: the processes of a run may be set to different ones.
_OF_A_MACHINE = {"output_dir", "dataset", "data_files", "mixture", "pretrained_backbone", "continue_from"}
_OF_A_MACHINE |= {"dataloader_num_workers"}


class NotTrained(Exception):
    """A training that made no step, whatever the reason: its random weights are not a result."""


def main(arguments: list[str] | None = None) -> int:
    """
    `lejepa train RECIPE_OR_IMAGES [--key value ...]`, and train.py in a checkout.

    Args:
        arguments (`list[str]`, *optional*): Command line; the process's own if missing. A recipe comes first, or
            images, for which [`~runs.own_images.with_recipe`] chooses one.

    Returns:
        `int`: Exit status: 0; 2 with one line on stderr if the recipe, the data, the launch or the folder cannot be
        used; 1 with one line if the loss became NaN or infinite, reading the data failed, a checkpoint cannot be
        written, no step was made, another process of the run has ended, or the finished run cannot be pushed; 143
        (128 + SIGTERM) if SIGTERM ended it, and 130 (128 + SIGINT) if Ctrl+C did, both with a checkpoint once training
        has begun.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"}.intersection(arguments):
        (sys.stdout if arguments else sys.stderr).write(f"{format_help() if arguments else USAGE}\n")
        return 0 if arguments else 2
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    disable_progress_bar()  # of loading and saving weights; the Trainer's own stays
    with ExitStack() as holding:
        try:
            informs = os.environ.get("RANK", "0") == "0" and not is_quiet()
            logger.setLevel(logging.INFO if informs else logging.WARNING)
            name, *pairs = with_recipe(arguments)
            recipe = parse_recipe(name, pairs)
            holding.enter_context(hidden_progress_bars(bool(recipe.training.disable_tqdm)))
            with failing_together():
                if recipe.training.process_index == 0:
                    holding.enter_context(RunFolder(recipe.folder).held())
                resolved = resolve(recipe)
            if world_size() > 1:
                check_same_everywhere(_same_everywhere(recipe))
            trainer, held_out = build(resolved)
        except (ValueError, OtherRankFailed) as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            return INTERRUPTED
        try:
            return run(resolved, trainer, held_out)
        except (FloatingPointError, DataError, CheckpointNotWritten, NotTrained, RunNotFinished) as error:
            sys.stderr.write(f"\nerror: {error}\n")
        except (OSError, SafetensorError) as error:
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise
            sys.stderr.write(f"\nerror: {error}. Make room, then continue with `--resume`.\n")
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            sys.stderr.write(f"\nerror: {explain_lost_process(error)} Continue with `--resume`.\n")
        except KeyboardInterrupt:
            sys.stderr.write("\ninterrupted; the same command with `--resume` makes what is missing\n")
            return INTERRUPTED
        return 1


def _same_everywhere(recipe: Recipe) -> dict[str, Any]:
    """What every process of a run must have been set to."""
    return {f"`{key}`": value for key, value in recipe.resolved().items() if key not in _OF_A_MACHINE}


def build(recipe: ResolvedRecipe) -> tuple[LeJEPATrainer, ImageSource | None]:
    """
    Data, model and trainer of a run: everything that can refuse it, before any long work.

    Args:
        recipe ([`ResolvedRecipe`]): The run, from [`~runs.resolving.resolve`]; stays as it is.

    Returns:
        `tuple`: The trainer, and the held-out source if there is something to evaluate on.

    Raises:
        ValueError: If the folder, the network, the crops or the data cannot be used; the message says what to change.
    """
    training = recipe.training
    with failing_together():
        if training.process_index == 0:  # other ranks may be here when the first one already writes
            RunFolder(recipe.folder).claim(training.resume)
        sources = open_sources(recipe.data)
        _share_cores(training)
        set_seed(training.seed)
        model = build_model(recipe.config, recipe.model.pretrained_backbone, recipe.earlier)
    trainer = _build_trainer(recipe, sources, model)
    if recipe.checkpoint is not None:
        trainer.check_resume(recipe.checkpoint)
    return trainer, sources.held_out


def _build_trainer(recipe: ResolvedRecipe, sources: RunSources, model: LeJEPAForPreTraining) -> LeJEPATrainer:
    data, training, source = recipe.data, recipe.training, sources.train
    logger.info(
        f"{source.name}: {source.num_images or 'a stream of'} images; "
        f"{model.config.backbone_config.model_type} encoder with "
        f"{sum(p.numel() for p in model.encoder.parameters()):,} parameters"
    )
    if training.push_to_hub and training.process_index == 0:
        prepare_repository(training)
    pushes_checkpoints = training.push_to_hub and training.hub_strategy != "end"
    views = MultiCropTransform.from_settings(data, training.seed)
    labels = source.label_column
    if source.several_labels:
        logger.info(f"{source.name}: the online probe and k-NN while training use {labels!r}, the first label column")
    if source.label_kind in ("multi-label", "number"):
        labels = None
        logger.info(
            f"{source.name}: the labels in {source.label_column!r} are not single classes, so that the online probe "
            "and k-NN are left out while training; the evaluation at the end uses them"
        )
    return LeJEPATrainer(
        model=model,
        args=training if pushes_checkpoints else replace(training, push_to_hub=False),
        train_dataset=source.dataset,
        eval_dataset=sources.held_out_dataset,
        data_collator=MultiCropCollator(views, source.image_column, labels, data.view_column),
        processing_class=build_processor(
            data.global_crop_size, data.eval_crop_ratio, data.image_mean, data.image_std, data.pixel_range
        ),
        callbacks=[CheckpointPush(training)] if pushes_checkpoints else None,
    )


def _share_cores(training: LeJEPATrainingArguments) -> None:
    """
    Reserve one core for each loader worker and use the others for training on a CPU. Launchers give a process one
    thread, PyTorch gives it one for each core, and a step takes ten times as long if threads wait for a worker's core.
    """
    threads = max(1, cores_of_this_process() - (training.dataloader_num_workers or 0))
    before = torch.get_num_threads()
    if training.device.type == "cpu" and (before == 1 or before > threads) and threads != before:
        torch.set_num_threads(threads)
        logger.info(f"{threads} of {cores_of_this_process()} cores are used for training, instead of {before}.")


def run(recipe: ResolvedRecipe, trainer: LeJEPATrainer, held_out: ImageSource | None) -> int:
    """Train what [`build`] made, save, export, evaluate, draw, push. Returns the exit status of [`main`]."""
    folder = RunFolder(recipe.folder)
    if trainer.is_world_process_zero():
        _write_start(folder, recipe, trainer)
    interrupted = False
    try:
        with second_interrupt_ends():
            trainer.train(resume_from_checkpoint=recipe.checkpoint)
    except KeyboardInterrupt:  # by the first Ctrl+C, after the checkpoint
        interrupted = True
    except Exception:
        _free_without_a_step(folder, recipe, trainer)
        raise
    if trainer.preempted or interrupted:
        trainer.accelerator.end_training()
        name, step = "SIGINT" if interrupted else "SIGTERM", trainer.state.global_step
        logger.info(f"Stopped by {name}. The same command with `--resume` continues at step {step}.")
        return INTERRUPTED if interrupted else EXIT_STATUS
    if trainer.state.global_step == 0:
        _free_without_a_step(folder, recipe, trainer)
        raise NotTrained(f"The training of {folder.path} ended before its first step, so nothing is exported.")
    if trainer.is_world_process_zero() and not folder.record.is_file():  # the folder was deleted meanwhile
        _write_start(folder, recipe, trainer)
    trainer.save_model(str(folder.pretraining))
    if trainer.encoder_average is not None:
        trainer.encoder_average.save_state(folder.pretraining)
    is_shared = held_out is not None and held_out.label_column is not None and world_size() > 1
    embedded = embed_together(recipe, held_out) if held_out is not None and is_shared else None
    # From here on the first rank works alone: nothing may wait for the others, SIGReg's sums over ranks included.
    trainer.accelerator.end_training()
    if not trainer.is_world_process_zero():
        return 0
    finish_run(recipe, _facts(trainer), held_out, embedded)
    return _push(recipe, trainer) if recipe.training.push_to_hub else 0


def _write_start(folder: RunFolder, recipe: ResolvedRecipe, trainer: LeJEPATrainer) -> None:
    images = ImageSource(trainer.train_dataset, "", trainer.data_collator.image_column)
    folder.write_start(recipe.resolved(), recipe.arguments(), recipe.checkpoint, logged_description(images))


def _free_without_a_step(folder: RunFolder, recipe: ResolvedRecipe, trainer: LeJEPATrainer) -> None:
    """Leave the folder to the next start if this one failed before its first step."""
    if trainer.state.global_step == 0 and recipe.checkpoint is None and trainer.is_world_process_zero():
        folder.forget_start()


def _facts(trainer: LeJEPATrainer) -> dict[str, Any]:
    device, threads = trainer.args.device, f"{torch.get_num_threads()} CPU threads"
    assert isinstance(trainer.model, LeJEPAForPreTraining)
    return {
        "steps": trainer.state.global_step,
        "global_batch": trainer.global_batch,
        "epochs": trainer.state.epoch,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else threads,
        "encoder_parameters": sum(p.numel() for p in trainer.model.encoder.backbone.parameters()),
        "energy_source": trainer.energy.source,
    }


def _push(recipe: Recipe, trainer: LeJEPATrainer) -> int:
    """Push the checkpoints that are still waiting, then the run, which is complete on disk if that fails."""
    training, folder, repo_id = recipe.training, str(recipe.folder), recipe.training.hub_model_id
    assert repo_id is not None, "`push_to_hub` without it was refused"
    checkpoint_push = trainer.pop_callback(CheckpointPush)
    if isinstance(checkpoint_push, CheckpointPush):
        checkpoint_push.finish()
    if not are_hidden():
        enable_progress_bar()
    revision = ["--revision", training.hub_revision] if training.hub_revision else []
    try:
        url = push_run(folder, repo_id, training.hub_private_repo, training.hub_revision, training.hub_token)
    except (ValueError, OSError) as error:
        command = " ".join(["lejepa push", folder, repo_id, *revision])
        sys.stderr.write(f"\nerror: {error} The run is complete and only not pushed: `{command}`.\n")
        return 1
    logger.info(f"Pushed to {url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
