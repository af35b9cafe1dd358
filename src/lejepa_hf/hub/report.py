"""A run -> one HTML page about it, without network, JavaScript or other files."""

import base64
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ..evaluation.baselines import PIXELS, UNTRAINED
from ..evaluation.intervals import is_spread
from ..evaluation.table import percent_cell, readable_name
from ..system.durable_files import write_text
from ..system.run_folder import Row, RunFolder
from .model_card import PICTURES, num_processes, shared_of
from .pictures.losses import draw_losses
from .public_files import is_run, public_files
from .training_data import public_name

_TEMPLATE = Path(__file__).with_name("report_template.html")
# The last one is in the report only, for whoever made the run.
_CAPTIONS = {name: caption for name, (caption, _) in PICTURES.items()}
_CAPTIONS["confusion"] = "Which classes of held-out images k-NN takes for which"
_HEADLINES = {"eval_linear_top1": "linear top-1", "eval_knn_top1": "k-NN top-1", "eval_10shot_top1": "10 shots, top-1"}


def write_report(run: str | Path) -> Path:
    """
    Write `report.html` into the folder of a run, finished or not. It contains what a push would publish, without paths
    of this machine and tokens, and names what the run does not have yet. ValueError if it is not the folder of a run.
    """
    folder = RunFolder(run)
    if not folder.recipe.is_file() or not is_run(folder.path):
        raise ValueError(f"`run` {str(run)!r} is not a run folder: no recipe.yaml there.")
    draw_losses(run)  # again: the run may have continued
    texts = {name: file.decode() for name, file in public_files(run).items() if isinstance(file, bytes)}
    results, statistics, versions = (
        json.loads(texts.get(path.name, "null")) for path in (folder.results, folder.statistics, folder.versions)
    )
    metrics = folder.read_metrics()
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    page = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=folder.path.resolve().name,
        **_names(folder),
        headlines=_headlines(results, statistics, metrics) + _held_out_headlines(results, folder.read_held_out()),
        missing=_missing(folder, metrics, results, statistics),
        columns=list(results["rows"]) if results else [],
        rows=_result_rows(results["rows"]) if results else [],
        run=results["run"] if results else None,
        seconds=results["run"]["train_seconds"] if results else _last_runtime(folder),
        processes=num_processes(folder),
        shared=shared_of(results),
        held_out=folder.read_held_out(),
        shared_in_training=max((row.get("eval_shared_images", 0) for row in folder.read_held_out()), default=0),
        pictures=_pictures(folder),
        statistics=statistics,
        last=metrics[-1] if metrics else None,
        recipe=texts[folder.recipe.name],
        versions=versions or {},
    )
    write_text(folder.report, page)
    return folder.report


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
    found = [(f"{100 * own[name]:.1f} %", meaning) for name, meaning in _HEADLINES.items() if name in own]
    if metrics and "sigreg_over_null" in metrics[-1]:
        found.append((f"{metrics[-1]['sigreg_over_null']:.2f}", "SIGReg of the last batches, 1 for a Gaussian"))
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
    return [(readable_name(name), [percent_cell(of, name) for of in rows.values()]) for name in names]


def _last_runtime(run: RunFolder) -> float | None:
    """Seconds since the run was last started, for a run without an evaluation."""
    logged = [row["train_runtime"] for row in run.read_rows() if "train_runtime" in row]
    return logged[-1] if logged else None


def _pictures(run: RunFolder) -> list[tuple[str, str]]:
    """(data url, caption), pictures of this package first, in the order of its captions."""
    own = {run.picture(name): caption for name, caption in _CAPTIONS.items() if run.picture(name).is_file()}
    others = {path: path.stem.replace("_", " ") for path in sorted(run.pictures.glob("*.png")) if path not in own}
    return [
        (f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", caption)
        for path, caption in {**own, **others}.items()
    ]
