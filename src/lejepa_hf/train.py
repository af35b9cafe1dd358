"""The story of a run: recipe -> data, model, trainer -> encoder, evaluation, pictures, card."""

import errno
import json
import logging
import sys
from itertools import islice, takewhile
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from .backbone.building import pretrained_config
from .checkpoints import CheckpointNotWritten, resolve_resume
from .configuration_lejepa import LeJEPAConfig
from .data.collator import MultiCropCollator
from .data.errors import DataError
from .data.multi_crop import MultiCropTransform
from .data.positions import read_positions
from .data.sources import ImageSource, load_mixture, load_source
from .data.streaming import EndlessRows
from .evaluation.embedding_extraction import extract_projections
from .evaluation.embedding_statistics import EmbeddingStatistics, embedding_statistics
from .evaluation.evaluate_encoder import AVERAGED, ENCODER, check_protocols, evaluate_with_baselines, format_table
from .hub.export import build_processor, export_encoder
from .hub.model_card import write_model_card
from .hub.pictures import draw_embeddings, draw_gaussianity, draw_losses, read_metrics
from .hub.push import push_run
from .modeling_lejepa import LeJEPAForPreTraining
from .preemption import EXIT_STATUS
from .recipes import DataArguments, ModelArguments, Recipe, parse_recipe
from .run_folder import check_free, write_run_facts
from .trainer import LeJEPATrainer
from .training_args import LeJEPATrainingArguments, cores_of_this_process
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
    except (FloatingPointError, DataError, CheckpointNotWritten) as error:
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
        check_free(training.output_dir, training.resume)
    if training.resume is not None:
        checkpoint = resolve_resume(training.resume, training.output_dir)
        training.resume = None if checkpoint is None else str(checkpoint)
    if training.resume is not None:
        read_positions(training.resume)  # refuses a checkpoint that does not have them
    check_protocols(data.eval_protocols)
    _share_cores(training)
    set_seed(training.seed)
    model = build_model(recipe.model, training.seed)
    fit_views(model.config.backbone_config, recipe)
    source = training_source(data)
    held_out = _held_out(data)
    logger.info(
        f"{source.name}: {source.num_images or 'a stream of'} images; "
        f"{model.config.backbone_config.model_type} encoder with "
        f"{sum(p.numel() for p in model.encoder.parameters()):,} parameters"
    )
    views = MultiCropTransform.from_settings(data, training.seed)
    trainer = LeJEPATrainer(
        model=model,
        args=training,
        train_dataset=source.dataset,
        eval_dataset=_with_columns_of(source, held_out) if held_out is not None else None,
        data_collator=MultiCropCollator(views, source.image_column, source.label_column),
        processing_class=build_processor(
            data.global_crop_size, data.eval_crop_ratio, data.image_mean, data.image_std, data.pixel_range
        ),
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


def build_config(arguments: ModelArguments, seed: int = 0) -> LeJEPAConfig:
    """The config of that model, without its weights."""
    backbone = arguments.backbone_config or pretrained_config(arguments.pretrained_backbone)
    return LeJEPAConfig(backbone_config=backbone, **arguments.config_kwargs(), directions_seed=seed)


def training_source(data: DataArguments) -> ImageSource:
    """
    The images a recipe trains on, one source or a mixture.

    Raises:
        ValueError: If they cannot be opened.
    """
    if data.mixture is None:
        return _open(data, data.train_split)
    mixture = load_mixture(data.mixture, data.streaming)
    return ImageSource(mixture, f"a mixture of {len(mixture.datasets)} datasets", "image")


def _open(data: DataArguments, split: str) -> ImageSource:
    return load_source(
        data.dataset,
        split,
        data.dataset_config,
        data.streaming,
        data.image_column,
        data.label_column,
        data.dataset_revision,
        data.data_files,
    )


def _held_out(data: DataArguments) -> ImageSource | None:
    if data.eval_split is None:
        return None
    held_out = _open(data, data.eval_split)
    if held_out.label_column is None:
        raise ValueError(
            f"`eval_split` {data.eval_split!r} of {data.dataset!r} has no labels: name them with `label_column`, or "
            "leave `eval_split` out."
        )
    return held_out


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
        write_run_facts(folder, recipe.resolved())
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
    encoder = export_encoder(folder)
    averaged = export_encoder(folder, averaged=True) if recipe.training.ema_decay else None
    draw_losses(folder)
    if held_out is not None:
        _evaluate(recipe, trainer, held_out, averaged)
    measure_projections(folder, recipe)
    write_model_card(encoder, folder)
    if averaged is not None:
        write_model_card(averaged, folder, ema_decay=recipe.training.ema_decay)
    logger.info(f"\nEverything is in {folder}/:")
    for name, meaning in _CONTENTS.items():
        if (folder / name).exists():
            logger.info(f"  {name:<20} {meaning}")
    return _push(recipe, trainer) if recipe.training.push_to_hub else 0


_CONTENTS = {
    "encoder": "AutoModel.from_pretrained loads it, card in README.md",
    "encoder_averaged": "the same with averaged weights",
    "pretraining": "LeJEPAForPreTraining.from_pretrained continues from it",
    "results.json": "the evaluation",
    "statistics.json": "how Gaussian the projections are",
    "metrics.jsonl": "every logged row",
    "pictures": "the losses, the projections and, with held-out labels, the embeddings",
    "recipe.yaml": "repeats this run",
    "versions.json": "of the packages used",
}


def _evaluate(recipe: Recipe, trainer: LeJEPATrainer, held_out: ImageSource, averaged: Path | None) -> None:
    data, folder = recipe.data, Path(recipe.training.output_dir)
    train = _open(data, data.train_split)
    results, embedded = evaluate_with_baselines(folder / "encoder", train, held_out, data.eval_protocols, averaged)
    table = format_table(results)
    logger.info(f"\n{table}\n")
    device = trainer.args.device
    facts = {
        "train_split": data.train_split,
        "eval_split": data.eval_split,
        "num_train_images": train.num_images,
        "num_eval_images": held_out.num_images,
        "steps": trainer.state.global_step,
        "global_batch": trainer.global_batch,
        "epochs": trainer.state.epoch,
        "train_seconds": _train_seconds(folder, trainer.global_batch),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads",
        "encoder_parameters": sum(p.numel() for p in trainer.model.encoder.backbone.parameters()),
    }
    content = {"encoder": results[ENCODER], "rows": results, "table": table, "run": facts}
    if averaged is not None:
        content["averaged_encoder"] = results[AVERAGED]
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    draw_embeddings(folder, embedded.embeddings, embedded.labels, held_out.class_names)


def measure_projections(run: str | Path, recipe: Recipe, num_images: int = 512) -> EmbeddingStatistics:
    """
    How Gaussian the projections of a run's training images are, in evaluation mode; written into `statistics.json` and
    `pictures/gaussianity.png` of the run folder. For one process.

    Args:
        run (`str` or `Path`): Run folder with `pretraining/`.
        recipe ([`Recipe`]): That of the run: its images, views and device are used.
        num_images (`int`, *optional*, defaults to 512): At most; the first ones of the first epoch.

    Returns:
        [`EmbeddingStatistics`]

    Raises:
        ValueError: If there are fewer than 2 images or they cannot be opened.
    """
    if num_images < 2:
        raise ValueError(f"The number of images must be at least 2, got {num_images}.")
    run, data, seed = Path(run), recipe.data, recipe.training.seed
    source = training_source(data)
    # Shuffled, since folders and shards come class by class; a stream fills a buffer no larger than needed.
    rows = EndlessRows(
        source.dataset, batch_size=1, seed=seed, image_column=source.image_column, shuffle_buffer_size=num_images
    )
    first_epoch = takewhile(lambda row: row["epoch"] == 0, rows)
    model = LeJEPAForPreTraining.from_pretrained(run / "pretraining").to(recipe.training.device)
    collator = MultiCropCollator(MultiCropTransform.from_settings(data, seed), source.image_column)
    projections = extract_projections(model, islice(first_epoch, num_images), collator)
    statistics = embedding_statistics(projections, num_knots=model.config.num_knots, t_max=model.config.t_max)
    numbers = {"num_images": statistics.num_images, **statistics.metrics()}
    (run / "statistics.json").write_text(json.dumps(numbers, indent=2) + "\n")
    draw_gaussianity(run, statistics)
    return statistics


def _push(recipe: Recipe, trainer: LeJEPATrainer) -> int:
    """The checkpoints that are still under way, then the run. It is complete on disk, whatever the Hub says."""
    training = recipe.training
    if trainer.checkpoint_push is not None:
        trainer.checkpoint_push.finish()
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


def _train_seconds(run: Path, global_batch: int) -> float:
    """Time of all logged steps, those before a resume included."""
    seconds, last_step = 0.0, 0
    for row in read_metrics(run):
        seconds += (row["step"] - last_step) * global_batch / row["images_per_second"]
        last_step = row["step"]
    return seconds
