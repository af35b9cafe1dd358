"""What a finished run gets: its encoder, evaluation, statistics, pictures and card."""

import json
import logging
from pathlib import Path

from .data.collator import MultiCropCollator
from .data.decoding import DECODING_ERRORS
from .data.multi_crop import MultiCropTransform
from .data.some_rows import some_rows
from .data.sources import ImageSource
from .evaluation.embedding_extraction import extract_projections
from .evaluation.embedding_statistics import EmbeddingStatistics, embedding_statistics
from .evaluation.evaluate_encoder import AVERAGED, ENCODER, evaluate_with_baselines, format_table, load_encoder
from .evaluation.feature_extractor import FeatureExtractor
from .evaluation.patch_maps import enlarged_pixels, legible_patch_maps, principal_colours
from .hub.export import export_encoder
from .hub.model_card import write_model_card
from .hub.pictures import draw_embeddings, draw_few_shot, draw_gaussianity, draw_losses, draw_patch_maps, read_metrics
from .modeling_lejepa import LeJEPAForPreTraining
from .recipe_sources import held_out_source, open_split, training_source
from .recipes import Recipe

logger = logging.getLogger("lejepa_hf")

_CONTENTS = {
    "encoder": "AutoModel.from_pretrained loads it, card in README.md",
    "encoder_averaged": "the same with averaged weights",
    "pretraining": "a new run goes on from it with `--continue_from`",
    "results.json": "the evaluation",
    "statistics.json": "how Gaussian the projections are",
    "metrics.jsonl": "every logged row",
    "pictures": "losses, patch features, projections; with held-out labels embeddings and few-shot curves",
    "recipe.yaml": "repeats this run",
    "versions.json": "of the packages used",
}


def write_outcome(recipe: Recipe, facts: dict, held_out: ImageSource | None) -> None:
    """
    Export, evaluate, draw, and say where everything is. For one process.

    Args:
        recipe ([`Recipe`]): That of the run; its `output_dir` holds `pretraining/` and `metrics.jsonl`.
        facts (`dict`): Of the training, for `results.json` and the card: `steps`, `global_batch`, `epochs`, `device`,
            `encoder_parameters`, `energy_source`.
        held_out ([`ImageSource`], *optional*): Labelled images for the evaluation.
    """
    folder = Path(recipe.training.output_dir)
    encoder = export_encoder(folder)
    averaged = export_encoder(folder, averaged=True) if recipe.training.ema_decay else None
    draw_losses(folder)
    picture_patches(folder, recipe)
    if held_out is not None:
        _evaluate(recipe, facts, held_out, averaged)
    measure_projections(folder, recipe)
    write_model_card(encoder, folder)
    if averaged is not None:
        write_model_card(averaged, folder, ema_decay=recipe.training.ema_decay)
    logger.info(f"\nEverything is in {folder}/:")
    for name, meaning in _CONTENTS.items():
        if (folder / name).exists():
            logger.info(f"  {name:<20} {meaning}")


def _evaluate(recipe: Recipe, facts: dict, held_out: ImageSource, averaged: Path | None) -> None:
    data, folder = recipe.data, Path(recipe.training.output_dir)
    train = open_split(data, data.train_split)
    results, embedded = evaluate_with_baselines(folder / "encoder", train, held_out, data.eval_protocols, averaged)
    table = format_table(results)
    logger.info(f"\n{table}\n")
    facts = {
        "train_split": data.train_split,
        "eval_split": data.eval_split,
        "num_train_images": train.num_images,
        "num_eval_images": held_out.num_images,
        **facts,
        "train_seconds": _train_seconds(folder, facts["global_batch"]),
        "energy_kwh": _energy_kwh(folder),
    }
    content = {"encoder": results[ENCODER], "rows": results, "table": table, "run": facts}
    if averaged is not None:
        content["averaged_encoder"] = results[AVERAGED]
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    draw_few_shot(folder, results)
    draw_embeddings(folder, embedded.embeddings, embedded.labels, held_out.class_names)


def picture_patches(run: str | Path, recipe: Recipe, num_images: int = 8) -> Path | None:
    """
    Draw the patch features of some images into `pictures/pca_maps.png`: held-out ones, or where the recipe has none,
    training images. For one process.

    Args:
        run (`str` or `Path`): Run folder with `encoder/`.
        recipe ([`Recipe`]): That of the run.
        num_images (`int`, *optional*, defaults to 8): Of the first epoch of a shuffled source.

    Returns:
        `Path`: The picture, None where no image could be read or the encoder has no patches.
    """
    extractor = FeatureExtractor(*load_encoder(Path(run) / "encoder"))
    source = held_out_source(recipe.data) or training_source(recipe.data)
    images = []
    for row in some_rows(source, 4 * num_images, recipe.training.seed):
        try:
            images.append(extractor.decode(row[source.image_column]))
        except DECODING_ERRORS:  # said while training
            continue
        if len(images) == num_images:
            break
    if not images:
        return None
    try:
        maps, enlarge = legible_patch_maps(extractor, images)
    except ValueError as error:
        logger.warning(f"pictures/pca_maps.png is left out: {error}")
        return None
    return draw_patch_maps(run, enlarged_pixels(extractor, images, enlarge), principal_colours(maps))


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
    model = LeJEPAForPreTraining.from_pretrained(run / "pretraining").to(recipe.training.device)
    collator = MultiCropCollator(MultiCropTransform.from_settings(data, seed), source.image_column)
    projections = extract_projections(model, some_rows(source, num_images, seed), collator)
    statistics = embedding_statistics(projections, num_knots=model.config.num_knots, t_max=model.config.t_max)
    numbers = {"num_images": statistics.num_images, **statistics.metrics()}
    (run / "statistics.json").write_text(json.dumps(numbers, indent=2) + "\n")
    draw_gaussianity(run, statistics)
    return statistics


def _train_seconds(run: Path, global_batch: int) -> float:
    """Time of all logged steps, those before a resume included."""
    seconds, last_step = 0.0, 0
    for row in read_metrics(run):
        seconds += (row["step"] - last_step) * global_batch / row["images_per_second"]
        last_step = row["step"]
    return seconds


def _energy_kwh(run: Path) -> float | None:
    """Of all logged steps, None unless each row tells its part."""
    parts = [row.get("energy_kwh") for row in read_metrics(run)]
    return sum(parts) if parts and None not in parts else None
