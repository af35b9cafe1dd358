"""What a finished run gets: its encoder, evaluation, statistics, pictures, card and report."""

import json
import logging
import random
from collections import Counter
from pathlib import Path

from ..data.collator import MultiCropCollator
from ..data.decoding import DECODING_ERRORS
from ..data.multi_crop import MultiCropTransform
from ..data.sampling import some_rows
from ..data.sources import ImageSource
from ..evaluation.embedding_statistics import EmbeddingStatistics, embedding_statistics
from ..evaluation.embeddings.extraction import LabelledEmbeddings
from ..evaluation.evaluate_encoder import AVERAGED, ENCODER, evaluate_with_baselines, format_table, load_encoder
from ..evaluation.feature_extractor import FeatureExtractor
from ..evaluation.patch_maps import enlarged_pixels, legible_patch_maps, principal_colours
from ..evaluation.pixel_values import in_own_colours
from ..evaluation.projections import extract_projections
from ..evaluation.protocols.knn import nearest_neighbours, nearest_vote
from ..hub.export import export_encoder
from ..hub.model_card import write_model_card
from ..hub.pictures.confusion import draw_confusion
from ..hub.pictures.embedding_map import draw_embeddings
from ..hub.pictures.few_shot_curves import draw_few_shot
from ..hub.pictures.gaussianity import draw_gaussianity
from ..hub.pictures.losses import draw_losses
from ..hub.pictures.neighbours import draw_neighbours
from ..hub.pictures.patch_colours import draw_patch_maps
from ..hub.report import write_report
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.logged_rows import read_metrics
from .recipe_sources import held_out_source, open_split, training_source
from .recipes import Recipe

logger = logging.getLogger("lejepa_hf")

_CONTENTS = {
    "encoder": "AutoModel.from_pretrained loads it, card in README.md",
    "encoder_averaged": "the same with averaged weights",
    "pretraining": "a new run goes on from it with `--continue_from`",
    "report.html": "all of it on one page, which can be sent to somebody",
    "results.json": "the evaluation",
    "statistics.json": "how Gaussian the projections are",
    "metrics.jsonl": "every logged row",
    "pictures": "losses, patch features, projections; with held-out labels accuracy, neighbours, confusion",
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
    write_report(folder)
    logger.info(f"\nEverything is in {folder}/:")
    for name, meaning in _CONTENTS.items():
        if (folder / name).exists():
            logger.info(f"  {name:<20} {meaning}")


def _evaluate(recipe: Recipe, facts: dict, held_out: ImageSource, averaged: Path | None) -> None:
    data, folder = recipe.data, Path(recipe.training.output_dir)
    train = open_split(data, data.train_split)
    results, (bank, embedded) = evaluate_with_baselines(
        folder / "encoder", train, held_out, data.eval_protocols, averaged
    )
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
    draw_confusion(folder, embedded.labels, nearest_vote(bank, embedded), held_out.class_names)
    picture_neighbours(folder, (train, bank), (held_out, embedded))


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
    seen = in_own_colours(enlarged_pixels(extractor, images, enlarge), extractor.processor)
    return draw_patch_maps(run, seen, principal_colours(maps))


def picture_neighbours(
    run: Path,
    bank: tuple[ImageSource, LabelledEmbeddings],
    held_out: tuple[ImageSource, LabelledEmbeddings],
    num_queries: int = 6,
    num_neighbours: int = 8,
) -> Path | None:
    """
    Draw held-out images, of as many classes as there are, beside the training images nearest to them, into
    `pictures/neighbours.png`. For one process.

    Args:
        run (`Path`): Run folder with `encoder/`.
        bank (`tuple`): Labelled training images, and their embeddings.
        held_out (`tuple`): The same of held-out images; which of them are drawn is chosen at random, always the same.
        num_queries (`int`, *optional*, defaults to 6): Held-out images.
        num_neighbours (`int`, *optional*, defaults to 8): Of each.

    Returns:
        `Path`: The picture, None for streams, whose images cannot be read again.
    """
    (bank_source, bank_embedded), (source, embedded) = bank, held_out
    if not all(hasattr(one.dataset, "select") for one in (bank_source, source)):
        logger.info("pictures/neighbours.png is left out: a stream's images cannot be read again by number.")
        return None
    extractor = FeatureExtractor(*load_encoder(run / "encoder"))
    chosen = _one_of_each_class(embedded.labels.tolist(), num_queries)
    number = min(num_neighbours, len(bank_embedded.labels))
    nearest = nearest_neighbours(bank_embedded.embeddings, embedded.embeddings[chosen], number)[1]

    def pixels(of: ImageSource, rows: list[int], numbers: list[int]):
        images = [extractor.decode(of.dataset[rows[number]][of.image_column]) for number in numbers]
        return in_own_colours(extractor.preprocess(images), extractor.processor)

    shown = pixels(bank_source, bank_embedded.rows(), nearest.flatten().tolist()).unflatten(0, nearest.shape)
    return draw_neighbours(
        run,
        pixels(source, embedded.rows(), chosen),
        embedded.labels[chosen].tolist(),
        shown,
        bank_embedded.labels[nearest].tolist(),
        source.class_names,
    )


def _one_of_each_class(labels: list[int], number: int) -> list[int]:
    """Places of images in a random order that is always the same, no class a second time before each had its turn."""
    order = random.Random(0).sample(range(len(labels)), len(labels))
    seen, turn = Counter(), {}
    for place in order:
        turn[place] = seen[labels[place]]
        seen[labels[place]] += 1
    return sorted(order, key=turn.__getitem__)[:number]


def measure_projections(run: str | Path, recipe: Recipe, num_images: int = 512) -> EmbeddingStatistics:
    """
    How Gaussian the projections of a run's training images are, batch norm as in training; written into
    `statistics.json` and `pictures/gaussianity.png` of the run folder. For one process.

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
    rows, batch_size = some_rows(source, num_images, seed), recipe.training.per_device_train_batch_size
    projections = extract_projections(model, rows, collator, batch_size)
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
