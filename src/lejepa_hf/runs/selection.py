"""Which run is best, told without labels: held-out losses corrected for the weight of SIGReg."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..data.view_settings import ViewSettings
from ..system.logged_rows import read_held_out, read_results

ALPHA = 0.4
_FARTHEST = 10  # between weights, for which the correction was seen to work; over a factor of 500 it was not
_FEWEST = 3  # candidates below which a rank correlation says nothing
# What the loss measures, and on what: a loss under another one of these is another quantity. Which images of a split
# and which crops of them (`seed`) and how many random slices (`num_slices`) only add noise.
_OBJECTIVE = ("statistic", "num_knots", "t_max", "sigreg_views", "per_device_train_batch_size")
_DATA = ("dataset", "dataset_config", "dataset_revision", "data_files", "eval_split", "monitor_images")
_VIEWS = tuple(ViewSettings.__dataclass_fields__)


@dataclass(frozen=True)
class Candidate:
    """
    A run as it was at a held-out evaluation.

    Args:
        run (`str`): Name of the run.
        step (`int`): Of the evaluation.
        is_final (`bool`): Whether it is the last one of the run.
        sigreg_weight (`float`): Of the run.
        loss (`float`): The objective on held-out images.
        knn_top1 (`float`, *optional*): Measured at the same step, in [0, 1].
        linear_top1 (`float`, *optional*): Measured at the end of the run, in [0, 1].
    """

    run: str
    step: int
    is_final: bool
    sigreg_weight: float
    loss: float
    knn_top1: float | None = None
    linear_top1: float | None = None

    @property
    def score(self) -> float:
        """
        Lower is better.

        Source: arXiv 2511.08544, sections 6.1 and 6.2: loss / weight^alpha, alpha about 0.4. Differs: the held-out
        loss, not that of training.
        """
        return self.loss / self.sigreg_weight**ALPHA


def find_candidates(runs: Sequence[str | Path]) -> list[Candidate]:
    """
    What can be chosen from: the last held-out evaluation of each run, and those at the steps of checkpoints that are
    still there.

    Losses are comparable where they measure the same thing on the same images. Backbone, optimizer, length, seed and
    `sigreg_weight` may differ; images, views, statistic, batch (SIGReg grows with it) and the last of `projector_dims`
    may not: ranking across them would rank the settings, not the encoders. Of processes, which a recipe does not tell,
    all runs should have had the same number.

    Args:
        runs (`Sequence[str | Path]`): Run folders, finished or not.

    Returns:
        `list[Candidate]`: The best score first.

    Raises:
        ValueError: If a folder is no run or has no held-out losses, its `sigreg_weight` is 0, or losses of two runs
            cannot be compared.
    """
    folders = [Path(run) for run in runs]
    recipes = [_read_recipe(folder) for folder in folders]
    names = _names(folders)
    for folder, recipe in zip(folders[1:], recipes[1:], strict=True):
        _check_comparable(folders[0], recipes[0], folder, recipe)
    found = []
    for folder, recipe, name in zip(folders, recipes, names, strict=True):
        found += _candidates_of(folder, recipe, name)
    return sorted(found, key=lambda candidate: candidate.score)


def rank_correlation(candidates: Sequence[Candidate]) -> tuple[float, int]:
    """
    Whether a better score goes with a higher k-NN accuracy.

    Args:
        candidates (`Sequence[Candidate]`): Those without an accuracy are passed over.

    Returns:
        `tuple[float, int]`: Spearman's correlation, NaN where all scores or all accuracies are the same or there are
        fewer than two; and the number of candidates it is over.
    """
    from scipy.stats import spearmanr

    labelled = [candidate for candidate in candidates if candidate.knn_top1 is not None]
    scores, accuracies = [-one.score for one in labelled], [one.knn_top1 for one in labelled]
    if len(set(scores)) < 2 or len(set(accuracies)) < 2:
        return math.nan, len(labelled)
    return float(spearmanr(scores, accuracies).statistic), len(labelled)


def format_candidates(candidates: Sequence[Candidate]) -> str:
    """A Markdown table, the best first, and what the correlation is."""
    rows = [["run", "step", "sigreg_weight", "held-out loss", f"loss / weight^{ALPHA}", "knn top1", "linear top1"]]
    rows += [
        [
            one.run, f"{one.step}{' (last)' if one.is_final else ''}", f"{one.sigreg_weight:g}", f"{one.loss:.4f}",
            f"{one.score:.4f}", _percent(one.knn_top1), _percent(one.linear_top1),
        ]
        for one in candidates
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    table = "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
    return "\n".join([table, "", describe_correlation(candidates), *_warn_of_weights(candidates)])


def describe_correlation(candidates: Sequence[Candidate]) -> str:
    """One sentence, which says when the figure means nothing."""
    correlation, number = rank_correlation(candidates)
    if number == 0:
        return "No labels, no accuracies: the score alone ranks."
    of = f"{number} candidate{'s' if number != 1 else ''} with labels"
    if math.isnan(correlation):
        return f"Rank correlation of score and k-NN top-1: none over {of}, which do not differ."
    sentence = f"Rank correlation (Spearman) of score and k-NN top-1: {correlation:.2f} over {of}"
    return sentence + (f"; below {_FEWEST} it means nothing." if number < _FEWEST else ".")


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


def _read_recipe(folder: Path) -> dict:
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is no run: no recipe.yaml there.")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not recipe.get("sigreg_weight"):
        raise ValueError(
            f"{str(folder)!r} has `sigreg_weight` {recipe.get('sigreg_weight')!r}: without SIGReg there is no "
            "corrected loss; leave this run out."
        )
    return recipe


def _names(folders: list[Path]) -> list[str]:
    """The folders' own names, or as they were given where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _check_comparable(first: Path, first_recipe: dict, other: Path, other_recipe: dict) -> None:
    for key in (*_OBJECTIVE, *_DATA, *_VIEWS):
        values = [recipe.get(key) for recipe in (first_recipe, other_recipe)]
        if values[0] != values[1]:
            _refuse(key, first, values[0], other, values[1])
    dims = [(recipe.get("projector_dims") or [None])[-1] for recipe in (first_recipe, other_recipe)]
    if dims[0] != dims[1]:
        _refuse("projector_dims", first, first_recipe["projector_dims"], other, other_recipe["projector_dims"])


def _refuse(key: str, first: Path, value, other: Path, other_value) -> None:
    raise ValueError(
        f"Losses of {str(first)!r} and {str(other)!r} cannot be compared: `{key}` is {value!r} there and "
        f"{other_value!r} here. Select among runs that share it."
    )


def _candidates_of(folder: Path, recipe: dict, name: str) -> list[Candidate]:
    rows = read_held_out(folder)
    if not rows:
        raise ValueError(
            f"{str(folder)!r} has no held-out losses in metrics.jsonl: train with `eval_split` set and "
            f"`eval_strategy` not 'no' (they are {recipe.get('eval_split')!r} and {recipe.get('eval_strategy')!r})."
        )
    last = rows[-1]["step"]
    steps = {int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*[0-9]")} | {last}
    linear = ((read_results(folder) or {}).get("encoder") or {}).get("eval_linear_top1")
    return [
        Candidate(
            name,
            row["step"],
            row["step"] == last,
            recipe["sigreg_weight"],
            row["eval_loss"],
            row.get("eval_knn_top1"),
            linear if row["step"] == last else None,
        )
        for row in rows
        if row["step"] in steps
    ]
