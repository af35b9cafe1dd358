"""What a trained run gets: exported encoder, evaluation, statistics, pictures, card and report."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data.collator import MultiCropCollator
from ..data.held_out_share import share_of
from ..data.image_source import some_rows
from ..data.multi_crop import MultiCropTransform
from ..data.readers.reader import Cut
from ..data.sources import ImageSource
from ..evaluation.embedding_statistics import EmbeddingStatistics, embedding_statistics
from ..evaluation.projections import extract_projections
from ..hub.export import export_encoder
from ..hub.model_card import write_model_card
from ..hub.pictures.gaussianity import draw_gaussianity
from ..hub.pictures.losses import draw_losses
from ..hub.report import write_report
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.error_text import reason_of
from ..system.run_folder import RunFolder, write_json
from ..training.checkpoints import complete_checkpoints
from .final_evaluation import FinalEvaluation
from .image_pictures import draw_if_possible, picture_patches
from .recipe_sources import training_source
from .recipes import Recipe
from .shared_embeddings import SharedEmbeddings

logger = logging.getLogger("lejepa_hf")

NUM_STATISTICS = 512  # images
_STATISTICS_BATCH = 32  # images at a time on a CPU, where batches of training may take minutes
_STATISTICS_SECONDS = 60.0  # at the end of a run


class RunNotFinished(Exception):
    """A run is trained, but parts of what follows could not be made; all others are kept."""


def finish_run(
    recipe: Recipe,
    facts: dict[str, Any],
    held_out: ImageSource | None,
    embedded: SharedEmbeddings | None = None,
) -> None:
    """
    Export, evaluate and draw, then log where everything is. For one process; nothing that fails stops another part,
    and a picture that cannot be drawn is only left out.

    Args:
        recipe ([`Recipe`]): Recipe of the run; its `output_dir` contains `pretraining/` and `metrics.jsonl`.
        facts (`dict`): Of the training, for `results.json` and the card: `steps`, `global_batch`, `epochs`, `device`,
            `encoder_parameters`, `energy_source`.
        held_out ([`ImageSource`], *optional*): Images for the evaluation; accuracies need labels.
        embedded ([`SharedEmbeddings`], *optional*): What all processes have embedded together.

    Raises:
        RunNotFinished: If a part could not be made; the message names it, the reason and the command that makes it.
    """
    run = RunFolder(recipe.folder)
    failed: dict[str, Exception] = {}
    parts = _parts(run, recipe, facts, held_out, embedded)
    logger.info(f"\nTraining is done and saved. What follows, in {len(parts)} parts:")
    for number, (name, make) in enumerate(parts.items(), 1):
        logger.info(f"  {number:>2}/{len(parts)} {name}")
        try:
            make()
        except Exception as error:  # noqa: PERF203, whatever it is, no part may cost a trained run the others
            logger.warning(f"{name} could not be made: {error}", exc_info=not isinstance(error, OSError | ValueError))
            failed[name] = error
    _log_contents(run)
    if failed:
        first = next(iter(failed.values()))
        reason = reason_of(first).rstrip(".")
        raise RunNotFinished(
            f"{run.path} is trained and its model is kept, but {', '.join(failed)} could not be made ({reason}). "
            f"{_way_out(run, recipe)}"
        ) from first


def _parts(
    run: RunFolder,
    recipe: Recipe,
    facts: dict[str, Any],
    held_out: ImageSource | None,
    embedded: SharedEmbeddings | None,
) -> dict[str, Callable[[], object]]:
    """What makes each part of a finished run, in the order in which they need each other."""
    decay = recipe.training.ema_decay
    parts: dict[str, Callable[[], object]] = {}
    if embedded is None:  # whoever has embedded images has exported the encoders
        parts["encoder/"] = partial(export_encoder, run.path)
        if decay:
            parts["encoder_averaged/"] = partial(export_encoder, run.path, averaged=True)
    parts["losses.png"] = partial(draw_if_possible, "losses", draw_losses, run.path)
    parts["pca_maps.png"] = partial(draw_if_possible, "pca_maps", picture_patches, run.path, recipe)
    if held_out is not None:
        parts |= FinalEvaluation(run, recipe, facts, held_out, embedded).parts()
    parts["statistics.json"] = partial(measure_projections, run.path, recipe, seconds=_STATISTICS_SECONDS)
    parts["the card"] = partial(write_model_card, run.encoder, run.path)
    if decay:
        card = partial(write_model_card, run.averaged_encoder, run.path, ema_decay=decay)
        parts["the averaged encoder's card"] = card
    parts["report.html"] = partial(write_report, run.path)
    return parts


def _way_out(run: RunFolder, recipe: Recipe) -> str:
    if complete_checkpoints(run.path):
        return "The same command with `--resume` makes what is missing."
    is_share = share_of(recipe.data.eval_split) is not None
    share = f" --eval_split '{recipe.data.eval_split}'" if is_share else ""
    share += f" --group_column {recipe.data.group_column}" if is_share and recipe.data.group_column else ""
    share += "".join(f" --{name} {value}" for name, value in Cut(**recipe.data.cut).given.items())
    return (
        f"By hand: `lejepa export {run.path}`, "
        f"`lejepa evaluate {run.encoder} --dataset {recipe.data.dataset}{share}`, `lejepa statistics {run.path}`, "
        f"`lejepa card {run.path}` and `lejepa report {run.path}`."
    )


def _log_contents(run: RunFolder) -> None:
    contents = {
        run.encoder: "AutoModel.from_pretrained loads it; its card is README.md",
        run.averaged_encoder: "the same with averaged weights",
        run.pretraining: "backbone and projector; `--continue_from` starts a new run with them",
        run.report: "everything on one page, easy to share",
        run.results: "the evaluation",
        run.statistics: "how Gaussian the projections are",
        run.metrics: "every logged row",
        run.pictures: "losses, patch features, projections; of held-out images a map and neighbours, with labels more",
        run.recipe: "repeats this run",
        run.record: "every training argument",
        run.versions: "versions of the packages used",
    }
    logger.info(f"\nEverything is in {run.path}/:")
    for path, meaning in contents.items():
        if path.exists():
            logger.info(f"  {path.name:<20} {meaning}")


def measure_projections(
    run: str | Path, recipe: Recipe, num_images: int = NUM_STATISTICS, seconds: float | None = None
) -> EmbeddingStatistics:
    """
    Measure how Gaussian the projections of training images are, with batch norm as in training, and write this to
    `statistics.json` and `pictures/gaussianity.png` of the run folder, which has `pretraining/`. For one process.
    Images, views and device are the recipe's; the images are the first ones of the first epoch, at least 2. `seconds`
    bounds the time of forward passes: with fewer images if they take longer, and batches small enough to see that.
    """
    if num_images < 2:
        raise ValueError(f"The number of images must be at least 2, got {num_images}.")
    folder, data, seed = RunFolder(run), recipe.data, recipe.training.seed
    source = training_source(data)
    model = LeJEPAForPreTraining.from_pretrained(folder.pretraining)
    torch.nn.Module.to(model, recipe.training.device)
    views = MultiCropTransform.from_settings(data, seed)
    collator = MultiCropCollator(views, source.image_column, view_column=data.view_column)
    rows, batch_size = some_rows(source, num_images, seed), recipe.training.per_device_train_batch_size
    if seconds is not None and recipe.training.device.type == "cpu":
        batch_size = min(batch_size, _STATISTICS_BATCH)
    projections = extract_projections(model, rows, collator, batch_size, seconds)
    statistics = embedding_statistics(projections, num_knots=model.config.num_knots, t_max=model.config.t_max)
    write_json(folder.statistics, {"num_images": statistics.num_images, **statistics.metrics()})
    draw_if_possible("gaussianity", draw_gaussianity, run, statistics)
    return statistics
