"""A run -> one HTML page about it, without network, JavaScript or other files."""

import json
from pathlib import Path
from typing import Any

from ..evaluation.baselines import PIXELS, UNTRAINED
from ..evaluation.intervals import is_spread
from ..evaluation.table import percent_cell
from ..system.run_folder import Row, RunFolder
from .model_card import num_processes, shared_of
from .pictures.curves import draw_curves
from .public_files import public_files
from .report_page import check_out, open_run, other_pictures, pictures_of, write_page
from .report_words import name_of_metric
from .training_data import public_name

_HEADLINES = ("eval_linear_top1", "eval_knn_top1", "eval_10shot_top1")


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """
    Write a page about a run, finished or not. It contains what a push would publish, without paths of this machine and
    tokens, and names what the run does not have yet.

    Args:
        run (`str` or `Path`): The folder of the run.
        out (`str` or `Path`, *optional*): File to write, `report.html` in that folder if missing.

    Raises:
        ValueError: If it is not the folder of a run, or if `out` exists and is not a report.
    """
    folder = open_run(run)
    if out is not None:
        check_out(Path(out))
    texts = {name: file.decode() for name, file in public_files(run).items() if isinstance(file, bytes)}
    results, statistics, versions = (
        json.loads(texts.get(path.name, "null")) for path in (folder.results, folder.statistics, folder.versions)
    )
    metrics, name = folder.read_metrics(), folder.path.resolve().name
    return write_page(
        folder.report if out is None else Path(out),
        "report_template.html",
        title=f"{name}: LeJEPA run",
        name=name,
        **_names(folder),
        headlines=_headlines(results, statistics, metrics) + _held_out_headlines(results, folder.read_held_out()),
        missing=_missing(folder, metrics, results, statistics),
        first_pictures=pictures_of(folder, "neighbours", "embeddings"),
        columns=list(results["rows"]) if results else [],
        rows=_result_rows(results["rows"]) if results else [],
        run=results["run"] if results else None,
        seconds=results["run"]["train_seconds"] if results else _last_runtime(folder),
        processes=num_processes(folder),
        images=folder.read_images(),
        shared=shared_of(results),
        held_out=folder.read_held_out(),
        shared_in_training=max((row.get("eval_shared_images", 0) for row in folder.read_held_out()), default=0),
        curves=list(draw_curves({name: folder}).values()),
        pictures=pictures_of(folder, "pca_maps", "few_shot", "confusion") + other_pictures(folder),
        of_projections=pictures_of(folder, "gaussianity"),
        sigreg=metrics[-1].get("sigreg_over_null") if metrics else None,
        statistics=statistics,
        last=metrics[-1] if metrics else None,
        recipe=texts[folder.recipe.name],
        versions=versions or {},
    )


def _names(run: RunFolder) -> dict[str, str]:
    """Model and images of a run, without names that are private."""
    recipe, local_paths = run.read_recipe(), run.read_local_paths()
    start = recipe.get("pretrained_backbone") or recipe.get("continue_from")
    own = (recipe.get("backbone_config") or {}).get("model_type")
    images = "a mixture of sources" if recipe.get("mixture") else public_name(recipe.get("dataset"), local_paths)
    model_type = own or public_name(start, local_paths) or "vision encoder"
    return {"model_type": model_type, "dataset": images or "local images"}


def _headlines(
    results: dict[str, Any] | None, statistics: dict[str, float] | None, metrics: list[Row]
) -> list[tuple[str, str]]:
    """(figure, what it is), the most important first."""
    own = results["encoder"] if results else {}
    found = [(f"{100 * own[name]:.1f} %", name_of_metric(name)) for name in _HEADLINES if name in own]
    if metrics and "sigreg_over_null" in metrics[-1]:
        found.append((f"{metrics[-1]['sigreg_over_null']:.2f}", "SIGReg, 1 for a Gaussian"))
    if statistics:
        found.append((f"{statistics['effective_rank']:.1f}", "effective rank of projections"))
    if metrics:
        found.append((f"{metrics[-1]['step']:,}", "steps"))
    return found


def _held_out_headlines(results: dict[str, Any] | None, held_out: list[Row]) -> list[tuple[str, str]]:
    """As [`_headlines`], what held-out images without labels show; with labels the accuracies say more."""
    if results is None or results["rows"]:
        return []
    found = [(f"{held_out[-1]['eval_loss']:.4f}", "held-out loss")] if held_out else []
    if "effective_rank" in results.get("held_out", {}):
        found.append((f"{results['held_out']['effective_rank']:.1f}", "effective rank of held-out embeddings"))
    return found


def _missing(
    run: RunFolder, metrics: list[Row], results: dict[str, Any] | None, statistics: dict[str, float] | None
) -> list[str]:
    """What the page does not show, and how to get it."""
    is_finished, found = (run.encoder / "config.json").is_file(), []
    if not metrics:
        found.append("Training curves: nothing has been logged yet.")
    if not is_finished:
        found.append("Results: this run is not finished; its own command with --resume continues it.")
    if results is None and run.read_recipe().get("eval_split") is None:
        found.append("Accuracies and held-out images: the recipe names no eval_split, such as 10%.")
    elif results and not results["rows"]:
        found.append("Accuracies: the held-out images have no labels.")
    elif results is None and is_finished:
        found.append("Accuracies: there is no results.json; `lejepa evaluate RUN --dataset DATASET` measures them.")
    absent = [name for name in (UNTRAINED, PIXELS) if results and results["rows"] and name not in results["rows"]]
    found += [f"The baseline {name!r}: the run's own command with --resume measures it." for name in absent]
    if statistics is None and is_finished:
        found.append("How Gaussian the projections are: `lejepa statistics RUN` measures it.")
    return found


def _result_rows(rows: dict[str, dict[str, float]]) -> list[tuple[str, list[str]]]:
    """Name of the metric, and a cell for each encoder in percent; none without labels."""
    names = [name for name in next(iter(rows.values()), {}) if not is_spread(name)]
    return [(name_of_metric(name), [percent_cell(of, name) for of in rows.values()]) for name in names]


def _last_runtime(run: RunFolder) -> float | None:
    """Seconds since the run was last started, for a run without an evaluation."""
    logged = [row["train_runtime"] for row in run.read_rows() if "train_runtime" in row]
    return logged[-1] if logged else None
