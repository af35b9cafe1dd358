"""A run -> one HTML page about it, which needs nothing else: no network, no JavaScript, no other file."""

import base64
import json
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from ..evaluation.intervals import INTERVAL, is_spread
from ..system.logged_rows import read_held_out, read_metrics, read_rows
from .model_card import PICTURES, num_processes
from .pictures.losses import draw_losses
from .public_files import is_run, public_files
from .training_data import public_name

_TEMPLATE = Path(__file__).with_name("report_template.html")
# Seen in the report only: of use to who made the run.
_CAPTIONS = {name: caption for name, (caption, _) in PICTURES.items()} | {
    "confusion.png": "Which classes of held-out images k-NN takes for which",
}
_HEADLINES = {"eval_linear_top1": "linear top-1", "eval_knn_top1": "k-NN top-1", "eval_10shot_top1": "10 shots, top-1"}


def write_report(run: str | Path) -> Path:
    """
    Write `report.html` into the folder of a run: figures, tables, curves and pictures, recipe, versions. It holds what
    a push would publish, without paths of this machine and tokens; what a run does not have yet is said.

    Args:
        run (`str` or `Path`): Run folder, finished or not.

    Returns:
        `Path`: The page.

    Raises:
        ValueError: If it is no folder of a run.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file() or not is_run(run):
        raise ValueError(f"`run` {str(run)!r} is no run folder: no recipe.yaml there.")
    draw_losses(run)  # anew: a run may have gone on
    files = public_files(run)
    recipe = yaml.safe_load(files["recipe.yaml"]) or {}
    results, statistics, versions = (_parsed(files, f"{name}.json") for name in ("results", "statistics", "versions"))
    metrics = read_metrics(run)
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    text = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=run.resolve().name,
        model_type=_model_type(recipe),
        dataset="a mixture of sources"
        if recipe.get("mixture")
        else public_name(recipe.get("dataset")) or "local images",
        headlines=_headlines(results, statistics, metrics),
        missing=_missing(run, recipe, metrics, results, statistics),
        columns=list(results["rows"]) if results else [],
        rows=_result_rows(results["rows"]) if results else [],
        run=results["run"] if results else None,
        seconds=results["run"]["train_seconds"] if results else _last_runtime(run),
        processes=num_processes(recipe, results),
        held_out=read_held_out(run),
        pictures=_pictures(files),
        statistics=statistics,
        views=_views(statistics),
        last=metrics[-1] if metrics else None,
        recipe=files["recipe.yaml"].decode(),
        versions=versions or {},
    )
    path = run / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _parsed(files: dict, name: str) -> dict | None:
    return json.loads(files[name]) if name in files else None


def _model_type(recipe: dict) -> str:
    """Public names only: a checkpoint of this machine is one of some kind."""
    start = recipe.get("pretrained_backbone") or recipe.get("continue_from")
    return (recipe.get("backbone_config") or {}).get("model_type") or public_name(start) or "vision encoder"


def _headlines(results: dict | None, statistics: dict | None, metrics: list[dict]) -> list[tuple[str, str]]:
    """(figure, what it is), what says most first."""
    own = results["encoder"] if results else {}
    found = [(f"{100 * own[name]:.1f} %", meaning) for name, meaning in _HEADLINES.items() if name in own]
    if metrics and "sigreg_over_null" in metrics[-1]:
        found.append((f"{metrics[-1]['sigreg_over_null']:.2f}", "SIGReg of the last batches, 1 for a Gaussian"))
    if statistics:
        found.append((f"{statistics['effective_rank']:.1f}", "effective rank of projections"))
    if metrics:
        found.append((f"{metrics[-1]['step']:,}", "steps"))
    return found


def _missing(run: Path, recipe: dict, metrics: list, results: dict | None, statistics: dict | None) -> list[str]:
    """What the page has to do without, and the way to it."""
    is_finished, found = (run / "encoder" / "config.json").is_file(), []
    if not metrics:
        found.append("Training curves: nothing has been logged yet.")
    if not is_finished:
        found.append("The end: this run is not finished; the command it was started with goes on with --resume.")
    if results is None and recipe.get("eval_split") is None:
        found.append("Accuracies: the recipe names no eval_split with labels.")
    elif results is None and is_finished:
        found.append("Accuracies: there is no results.json; `lejepa evaluate RUN --dataset DATASET` measures some.")
    if statistics is None and is_finished:
        found.append("How Gaussian the projections are: `lejepa statistics RUN` measures it.")
    return found


def _result_rows(rows: dict[str, dict[str, float]]) -> list[tuple[str, list[str]]]:
    """Name of the metric, and a cell for each encoder in percent; no cell is empty without a reason."""
    names = [name for name in next(iter(rows.values())) if not is_spread(name)]
    return [
        (name.removeprefix("eval_").replace("_", " "), [_cell(values, name) for values in rows.values()])
        for name in names
    ]


def _cell(values: dict[str, float], name: str) -> str:
    if name not in values:
        return "–"
    interval = f" ± {100 * values[name + INTERVAL]:.1f}" if name + INTERVAL in values else ""
    return f"{100 * values[name]:.1f}{interval}"


def _last_runtime(run: Path) -> float | None:
    """Of a run without an evaluation, whose facts are nowhere else: since it was started last."""
    told = [row["train_runtime"] for row in read_rows(run) if "train_runtime" in row]
    return told[-1] if told else None


def _pictures(files: dict) -> list[tuple[str, str]]:
    """(data url, what is to be seen), those of known names first."""
    found = {name.removeprefix("pictures/"): file for name, file in files.items() if name.startswith("pictures/")}
    order = sorted(found, key=[*_CAPTIONS, *found].index)
    return [
        (
            f"data:image/png;base64,{base64.b64encode(found[name].read_bytes()).decode()}",
            _CAPTIONS.get(name, Path(name).stem.replace("_", " ")),
        )
        for name in order
    ]


def _views(statistics: dict | None) -> list[tuple[str, float, float]]:
    """(view, SIGReg, null standard deviations above the null mean)."""
    if statistics is None:
        return []
    mean, std = statistics["sigreg_null_mean"], statistics["sigreg_null_std"]
    return [
        (name.removeprefix("sigreg_view"), value, (value - mean) / std)
        for name, value in statistics.items()
        if name.startswith("sigreg_view")
    ]
