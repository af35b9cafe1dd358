"""Which run is best, without labels: held-out losses corrected for the weight of SIGReg."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.held_out_share import share_of
from ..data.view_settings import ViewSettings
from ..evaluation.table import markdown_table
from ..system.run_folder import RunFolder, step_of
from ..training_args import LeJEPATrainingArguments

ALPHA = 0.4
_FARTHEST = 10  # largest ratio of weights for which the correction worked; at a ratio of 500 it did not
_FEWEST = 3  # a rank correlation of fewer candidates is meaningless
# Settings that define what the loss measures. The sample of images and crops (`seed`) and the number of random slices
# (`num_slices`) only add noise.
_OBJECTIVE = ("statistic", "num_knots", "t_max", "sigreg_views", "per_device_train_batch_size")
_DATA = (
    "dataset", "dataset_config", "dataset_revision", "data_files", "eval_split", "group_column", "pages", "slice_axis",
    "window_size", "monitor_images",
)  # fmt: skip
_VIEWS = tuple(ViewSettings.__dataclass_fields__)


@dataclass(frozen=True)
class Candidate:
    """A run at one of its held-out evaluations."""

    run: str
    step: int
    is_final: bool  # the last evaluation of the run
    sigreg_weight: float
    loss: float  # the objective on held-out images
    knn_top1: float | None = None  # at the same step, in [0, 1]
    linear_top1: float | None = None  # at the end of the run, in [0, 1]
    shared_images: int = 0  # held-out images that are training images too

    @property
    def score(self) -> float:
        """
        Lower is better.

        Source: arXiv 2511.08544, sections 6.1 and 6.2: loss / weight^alpha, alpha about 0.4. Differs: it uses the
        held-out loss, not the training loss.
        """
        return self.loss / self.sigreg_weight**ALPHA


def find_candidates(runs: Sequence[str | Path]) -> list[Candidate]:
    """
    The candidates, the best score first: the last held-out evaluation of each run, and those at the steps of
    checkpoints that still exist.

    Losses are comparable if they measure the same quantity on the same images. Backbone, optimizer, length, seed and
    `sigreg_weight` may differ; images, views, statistic, batch (SIGReg grows with it) and the last of `projector_dims`
    may not: ranking across them would rank the settings, not the encoders. All runs should have had the same number of
    processes, which is not checked.

    Args:
        runs (`Sequence[str | Path]`): Run folders, finished or not.

    Raises:
        ValueError: If a folder is not a run or has no held-out losses, its `sigreg_weight` is 0, or losses of two runs
            cannot be compared.
    """
    folders = [RunFolder(run) for run in runs]
    recipes = [_read_recipe(folder) for folder in folders]
    names = [folder.path.resolve().name for folder in folders]
    if len(set(names)) < len(names):  # then as they were given
        names = [str(folder.path) for folder in folders]
    found = []
    for folder, recipe, name in zip(folders, recipes, names, strict=True):
        _check_comparable(folders[0], recipes[0], folder, recipe)
        found += _candidates_of(folder, recipe, name)
    return sorted(found, key=lambda candidate: candidate.score)


def rank_correlation(candidates: Sequence[Candidate]) -> tuple[float, int]:
    """
    Whether a better score goes with a higher k-NN accuracy: Spearman's correlation over the candidates that have an
    accuracy, NaN where all scores or all accuracies are equal, and the number of these candidates.
    """
    from scipy.stats import spearmanr

    scores = [-one.score for one in candidates if one.knn_top1 is not None]
    accuracies = [one.knn_top1 for one in candidates if one.knn_top1 is not None]
    if len(set(scores)) < 2 or len(set(accuracies)) < 2:
        return math.nan, len(scores)
    return float(spearmanr(scores, accuracies).statistic), len(scores)


def format_candidates(candidates: Sequence[Candidate]) -> str:
    """A Markdown table, the best candidate first, and the correlation."""
    rows = [["run", "step", "sigreg_weight", "held-out loss", f"loss / weight^{ALPHA}", "knn top1", "linear top1"]]
    rows += [
        [
            one.run, f"{one.step}{' (last)' if one.is_final else ''}", f"{one.sigreg_weight:g}", f"{one.loss:.4f}",
            f"{one.score:.4f}", _percent(one.knn_top1), _percent(one.linear_top1),
        ]
        for one in candidates
    ]  # fmt: skip
    lines = [describe_correlation(candidates), *_warn_of_weights(candidates), *_name_shared(candidates)]
    return "\n".join([markdown_table(rows), "", *lines])


def describe_correlation(candidates: Sequence[Candidate]) -> str:
    """One sentence, which says so when the figure is meaningless."""
    correlation, number = rank_correlation(candidates)
    if number == 0:
        return "No labels, so no accuracies: the score alone ranks."
    of = f"{number} candidate{'s' if number != 1 else ''} with labels"
    if math.isnan(correlation):
        return f"Rank correlation of score and k-NN top-1: none over {of}, which do not differ."
    sentence = f"Rank correlation (Spearman) of score and k-NN top-1: {correlation:.2f} over {of}"
    return sentence + (f"; below {_FEWEST} it is meaningless." if number < _FEWEST else ".")


def _name_shared(candidates: Sequence[Candidate]) -> list[str]:
    shared = {one.run: one.shared_images for one in candidates if one.shared_images}
    return [
        f"{run}: {number} of its held-out images are also training images, so that its losses are not held out."
        for run, number in shared.items()
    ]


def _warn_of_weights(candidates: Sequence[Candidate]) -> list[str]:
    weights = [candidate.sigreg_weight for candidate in candidates]
    if max(weights) <= _FARTHEST * min(weights):
        return []
    return [
        f"Weights of {min(weights):g} to {max(weights):g} are far apart: the score ranked runs wrongly from 0.001 to "
        "0.5 (digits), and rightly within a factor of 5 (docs/studies.md)."
    ]


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.1f}"


def _read_recipe(run: RunFolder) -> dict[str, Any]:
    if not run.recipe.is_file():
        raise ValueError(f"{str(run.path)!r} is not a run: no recipe.yaml there.")
    # What a recipe of an earlier version does not have yet was as it is by default.
    recipe: dict[str, Any] = vars(ViewSettings()).copy()
    recipe["per_device_train_batch_size"] = LeJEPATrainingArguments.per_device_train_batch_size
    recipe |= run.read_arguments() | run.read_recipe()
    recipe.setdefault("pages", "channels")  # recipes of earlier versions lack it
    if recipe.get("dataset"):
        recipe["dataset"] = os.path.normpath(recipe["dataset"])  # `./photos/` is `photos`
    if share_of(recipe.get("eval_split")) is not None:  # of which split, is then a part of it
        recipe["eval_split"] = f"{recipe['eval_split'].replace(' ', '')} of {recipe.get('train_split', 'train')}"
    if not recipe.get("sigreg_weight"):
        raise ValueError(
            f"{str(run.path)!r} has `sigreg_weight` {recipe.get('sigreg_weight')!r}: without SIGReg there is no "
            "corrected loss; leave this run out."
        )
    return recipe


def _check_comparable(first: RunFolder, first_recipe: dict, other: RunFolder, other_recipe: dict) -> None:
    values: dict[str, tuple[Any, ...]] = {
        key: (first_recipe.get(key), other_recipe.get(key)) for key in (*_OBJECTIVE, *_DATA, *_VIEWS)
    }
    dims = tuple(recipe.get("projector_dims") for recipe in (first_recipe, other_recipe))
    if len({(one or [None])[-1] for one in dims}) == 2:
        values["projector_dims"] = dims
    for key, (there, here) in values.items():
        if there != here:
            raise ValueError(
                f"Losses of {str(first.path)!r} and {str(other.path)!r} cannot be compared: `{key}` is {there!r} "
                f"there and {here!r} here. Select among runs that share it."
            )


def _candidates_of(run: RunFolder, recipe: dict[str, Any], name: str) -> list[Candidate]:
    rows = run.read_held_out()
    if not rows:
        raise ValueError(
            f"{str(run.path)!r} has no held-out losses in metrics.jsonl: train with `eval_split` set and "
            f"`eval_strategy` not 'no' (they are {recipe.get('eval_split')!r} and {recipe.get('eval_strategy')!r})."
        )
    broken = [row["step"] for row in rows if not math.isfinite(row["eval_loss"])]
    if broken:
        raise ValueError(
            f"{str(run.path)!r} has held-out losses that are NaN or infinite: {len(broken)} of {len(rows)}, the first "
            f"one at step {broken[0]}. Leave this run out."
        )
    last = rows[-1]["step"]
    steps = {step_of(checkpoint) for checkpoint in run.checkpoints()} | {last}
    linear = ((run.read_results() or {}).get("encoder") or {}).get("eval_linear_top1")
    return [
        Candidate(
            name,
            step,
            step == last,
            recipe["sigreg_weight"],
            row["eval_loss"],
            row.get("eval_knn_top1"),
            linear if step == last else None,
            row.get("eval_shared_images", 0),
        )
        for row in rows
        if (step := row["step"]) in steps
    ]
