"""Several runs -> one HTML page: what differs in their settings, their figures, curves and pictures side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.intervals import is_spread
from ..evaluation.table import percent_cell
from ..system.run_folder import PictureName, RunFolder
from .model_card import shared_of
from .pictures.curves import draw_curves
from .public_files import public_files
from .report_page import CAPTIONS, check_out, open_run, pictures_of, write_page
from .report_words import name_of_metric

_DASH = "–"
_SIDE_BY_SIDE: tuple[PictureName, ...] = ("neighbours", "embeddings", "pca_maps")
_Table = list[tuple[str, list[str]]]  # name of a row, and a cell for each run


def write_comparison(runs: Sequence[str | Path], out: str | Path = "report.html") -> Path:
    """
    Write a page about several runs, finished or not, side by side. As a page about one run, it contains no paths of
    this machine and no tokens.

    Args:
        runs (`Sequence[str]`): Folders of at least two runs.
        out (`str` or `Path`, *optional*, defaults to `"report.html"`): File to write.

    Raises:
        ValueError: If there are fewer than two, one of them is not the folder of a run or is named twice, or `out`
            exists and is not a report.
    """
    folders = [open_run(run) for run in runs]
    if len({folder.path.resolve() for folder in folders}) < max(2, len(folders)):
        raise ValueError(f"`runs` must be at least two different ones, got {', '.join(map(str, runs))}.")
    check_out(Path(out))
    names = _names(folders)
    texts = [_texts(folder) for folder in folders]
    results = [json.loads(text.get(folder.results.name, "null")) for folder, text in zip(folders, texts, strict=True)]
    recipes = [yaml.safe_load(text[folder.recipe.name]) for folder, text in zip(folders, texts, strict=True)]
    versions = [json.loads(text.get(folder.versions.name, "{}")) for folder, text in zip(folders, texts, strict=True)]
    shared = [(name, shared_of(result)) for name, result in zip(names, results, strict=True)]
    return write_page(
        Path(out),
        "comparison_template.html",
        title=f"{' and '.join(names)}: LeJEPA runs",
        names=names,
        figures=_figures(folders, results),
        shared=[(name, sentence) for name, sentence in shared if sentence],
        settings=_differences(recipes),
        curves=list(draw_curves(dict(zip(names, folders, strict=True))).values()),
        pictures=_pictures(names, folders),
        versions=_differences(versions),
    )


def _names(folders: list[RunFolder]) -> list[str]:
    """The names of the folders; those that repeat are numbered, since where they are is private."""
    names: list[str] = []
    for folder in folders:
        name = folder.path.resolve().name
        number = sum(other.path.resolve().name == name for other in folders[: len(names)])
        names.append(f"{name} ({number + 1})" if number else name)
    return names


def _texts(folder: RunFolder) -> dict[str, str]:
    return {name: file.decode() for name, file in public_files(folder.path).items() if isinstance(file, bytes)}


def _figures(folders: list[RunFolder], results: list[dict[str, Any] | None]) -> _Table:
    """What was measured of each run's encoder and training."""
    accuracies = [result["encoder"] if result else {} for result in results]
    metrics = dict.fromkeys(name for of_run in accuracies for name in of_run if not is_spread(name))
    table = [(f"{name_of_metric(name)}, %", [percent_cell(of_run, name) for of_run in accuracies]) for name in metrics]
    facts = [_facts(folder, result) for folder, result in zip(folders, results, strict=True)]
    measured = dict.fromkeys(name for of_run in facts for name in of_run)
    return table + [(name, [of_run.get(name, _DASH) for of_run in facts]) for name in measured]


def _facts(folder: RunFolder, results: dict[str, Any] | None) -> dict[str, str]:
    """Figures of a run that need no labels, as they are written."""
    found, metrics, held_out = {}, folder.read_metrics(), folder.read_held_out()
    if held_out:
        found["held-out loss"] = f"{held_out[-1]['eval_loss']:.4f}"
    rank = (results or {}).get("held_out", {}).get("effective_rank")
    if rank is not None:
        found["effective rank of held-out embeddings"] = f"{rank:.1f}"
    if metrics and "sigreg_over_null" in metrics[-1]:
        found["SIGReg, 1 for a Gaussian"] = f"{metrics[-1]['sigreg_over_null']:.2f}"
    if metrics:
        found["steps"] = f"{metrics[-1]['step']:,}"
    if results is not None:
        found["training, seconds"] = f"{results['run']['train_seconds']:,.0f}"
        found["parameters of the encoder"] = f"{results['run']['encoder_parameters']:,}"
        found["evaluated on"] = f"{results['run']['eval_split']}"
    return found


def _differences(of_runs: list[dict[str, Any]]) -> _Table:
    """Keys whose values differ, in the order of the runs; a dash where a run does not have one."""
    keys = dict.fromkeys(key for of_run in of_runs for key in of_run)
    table = [(key, [_text(of_run[key]) if key in of_run else _DASH for of_run in of_runs]) for key in keys]
    return [(key, cells) for key, cells in table if len(set(cells)) > 1]


def _text(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def _pictures(names: list[str], folders: list[RunFolder]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """For each kind of picture its title, and the name and picture of each run that has it."""
    found = []
    for kind in _SIDE_BY_SIDE:
        beside = [(name, one) for name, run in zip(names, folders, strict=True) for one in pictures_of(run, kind)]
        if beside:
            found.append((CAPTIONS[kind], beside))
    return found
