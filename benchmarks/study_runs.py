"""
Code shared by all studies. Each setting is trained with each seed, one run per core, and its frozen encoder is
evaluated on held-out images of a subject: digits, or photographs. Rows go into a CSV file, means and ranges over the
seeds into a picture. A stopped study continues with the runs it still needs, and studies share the runs of settings
they have in common.
"""

import csv
import json
import multiprocessing
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.hub.export import export_encoder
from lejepa_hf.runs.pretraining import build
from lejepa_hf.runs.recipe_sources import open_split
from lejepa_hf.runs.recipes import Recipe, parse_recipe
from lejepa_hf.runs.resolving import resolve
from lejepa_hf.system.run_folder import RunFolder
from lejepa_hf.trainer import LeJEPATrainer

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "studies"
RESULTS = Path(__file__).parent / "results"
PICTURES = ROOT / "docs"
SEEDS = (0, 1, 2)
ACCURACIES = {"linear_top1": "linear", "knn_top1": "k-NN", "1shot_top1": "1 shot"}
STYLES = (("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#777777", "D", ":"), ("#009e73", "^", "-."))
_LAST = 5  # logged rows, of 10 steps each, that the training loss is averaged over


@dataclass(frozen=True)
class Subject:
    """
    What a study trains on.

    Args:
        name (`str`): Folder of its runs.
        recipe (`Path`): Recipe that the settings of a study change.
        cut (`dict`): Recipe keys that all its runs have: fewer steps, and images that are not the test set.
        dataset (`str`, *optional*): Where the recipe's dataset lies, if not where the recipe says.
    """

    name: str
    recipe: Path
    cut: dict = field(default_factory=dict)
    dataset: str | None = None

    @property
    def steps(self) -> int:
        return self.cut["max_steps"]

    def wanted(self, setting: dict, seed: int) -> dict:
        """The recipe of a run, without what does not change its result."""
        return yaml.safe_load(self.recipe.read_text(encoding="utf-8")) | self.cut | setting | {"seed": seed}

    def run_folder(self, setting: dict, seed: int, train: Callable) -> Path:
        """Folder named after what differs from the recipe, so that studies find each other's runs."""
        parts = [f"{key}={_short(value)}" for key, value in sorted(setting.items())]
        return RUNS / self.name / ",".join([train.__name__.removeprefix("train_"), *parts, f"seed={seed}"])


DIGITS = Subject("digits", ROOT / "recipes" / "digits" / "resnet_tiny.yaml", {"max_steps": 200})


def train_ours(recipe: Recipe) -> None:
    """Train like `train.py`, without evaluation, pictures and card."""
    trainer, _ = build(resolve(recipe))
    trainer.train()
    export(trainer, recipe)


def export(trainer: LeJEPATrainer, recipe: Recipe) -> None:
    """Export the trained encoder to the recipe's output folder."""
    folder = Path(recipe.training.output_dir)
    RunFolder(folder).write_start(recipe.resolved())
    trainer.save_model(str(folder / "pretraining"))
    export_encoder(folder)


def run_study(
    settings: dict[str, dict], train: Callable[[Recipe], None] = train_ours, subject: Subject = DIGITS
) -> list[dict]:
    """
    Train and evaluate the settings that have no results yet.

    Args:
        settings (`dict[str, dict]`): For each label, the recipe keys that differ from the subject's.
        train (`Callable`, *optional*): Function that trains a recipe and writes `encoder/` to its folder. It must be
            importable from a module, because other processes import it.
        subject ([`Subject`], *optional*, defaults to [`DIGITS`]): What is trained on.

    Returns:
        `list[dict]`: A row for each setting and seed: `label`, `folder`, the setting, `seed`, accuracies in %, losses.
    """
    rows = [
        {"label": label, "folder": subject.run_folder(setting, seed, train), **subject.cut, **setting, "seed": seed}
        for label, setting in settings.items()
        for seed in SEEDS
    ]
    wanted = {
        subject.run_folder(setting, seed, train): subject.wanted(setting, seed)
        for setting in settings.values()
        for seed in SEEDS
    }
    missing = {folder: content for folder, content in wanted.items() if not _is_there(folder, content)}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    os.environ["OMP_NUM_THREADS"] = "1"
    (RUNS / subject.name).mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        free = manager.Queue()
        for core in cores:
            free.put(core)
        with ProcessPoolExecutor(len(cores), context, _take_core, (free,)) as pool:
            futures = [pool.submit(_train_and_evaluate, *one, subject.dataset, train) for one in missing.items()]
            try:
                for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
    return [row | _measured(row["folder"]) for row in rows]


def _is_there(folder: Path, wanted: dict) -> bool:
    """Whether results exist and belong to the current recipe; the folder's name only contains what differs from it."""
    if RunFolder(folder).read_results() is None:
        return False
    kept = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    return _holds(kept, {key: value for key, value in wanted.items() if key != "dataset"})


def _holds(kept: dict, wanted: dict) -> bool:
    """Whether the saved recipe, which includes all defaults, contains all wanted settings; `auto` it has resolved."""
    return all(
        _holds(kept.get(key, {}), value) if isinstance(value, dict) else value in (kept.get(key), "auto")
        for key, value in wanted.items()
    )


def write_rows(name: str, rows: list[dict]) -> None:
    """Write `results/study_NAME.csv`, with the torch version and the commit of each run."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "folder"]
    with (RESULTS / f"study_{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, "torch", "commit"])
        for row in rows:
            made_with = json.loads((row["folder"] / "versions.json").read_text())
            of_run = [made_with["torch"], made_with.get("commit", "")]
            writer.writerow([*(_short(row.get(key, "")) for key in keys), *of_run])


def print_table(rows: list[dict]) -> None:
    """Means and ranges over the seeds for each label, as a Markdown table."""
    print(f"\n| setting | {' | '.join(ACCURACIES.values())} |\n|---|---|---|---|")
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = [mean_and_range(values_of(rows, label, name)) for name in ACCURACIES]
        print(f"| {label} | {' | '.join(cells)} |")


def mean_and_range(values: list[float]) -> str:
    """A cell of a table, `mean (smallest-largest)`."""
    return f"{statistics.fmean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def values_of(rows: list[dict], label: str, name: str) -> list[float]:
    """Values of one metric for all seeds of a setting."""
    return [row[name] for row in rows if row["label"] == label]


def draw_panels(name: str, rows: list[dict], panels: dict[str, Sequence[str]]) -> None:
    """
    Draw `docs/study_NAME.png`: accuracies by setting.

    Args:
        name (`str`): Name of the study.
        rows (`list[dict]`): Rows returned by [`run_study`].
        panels (`dict[str, Sequence[str]]`): For each panel's title, its labels in the order of the axis.
    """
    figure = Figure(figsize=(max(5, 4 * len(panels)), 3.6), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, labels) in zip(drawn, panels.items(), strict=True):
        for (accuracy, text), style in zip(ACCURACIES.items(), STYLES, strict=False):
            draw_ranges(axes, range(len(labels)), [values_of(rows, one, accuracy) for one in labels], style, text)
        axes.set_xticks(range(len(labels)), labels)
        axes.margins(x=0.15)
        finish(axes, title)
    drawn[0].set_ylabel("held-out top-1 in %, mean and range")
    drawn[0].legend(frameon=False)
    figure.savefig(PICTURES / f"study_{name}.png", dpi=120)


def draw_groups(name: str, rows: list[dict], groups: dict[str, dict], xlabel: str = "") -> None:
    """
    Draw `docs/study_NAME.png`: one panel for each accuracy, one line for each group.

    Args:
        name (`str`): Name of the study.
        rows (`list[dict]`): Rows returned by [`run_study`].
        groups (`dict[str, dict]`): For each line's label, the settings' labels by place on the axis: numbers for a
            logarithmic axis, or names, which are not joined by lines.
        xlabel (`str`, *optional*): Label of the axis.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (accuracy, text) in zip(figure.subplots(1, len(ACCURACIES)), ACCURACIES.items(), strict=True):
        for number, ((group, labels), style) in enumerate(zip(groups.items(), STYLES, strict=False)):
            named = isinstance(next(iter(labels)), str)
            beside = 0.15 * (number - (len(groups) - 1) / 2) if named else 0
            places = [place + beside for place in (range(len(labels)) if named else labels)]
            values = [values_of(rows, label, accuracy) for label in labels.values()]
            draw_ranges(axes, places, values, (*style[:2], "none") if named else style, group)
        if named:
            axes.set_xticks(range(len(labels)), labels, rotation=20 if len(labels) > 3 else 0)
            axes.margins(x=0.15)
        else:
            axes.set_xscale("log")
        axes.set_xlabel(xlabel)
        finish(axes, text)
    figure.axes[0].set_ylabel("held-out top-1 in %, mean and range")
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside upper center", ncols=len(groups), frameon=False)
    figure.savefig(PICTURES / f"study_{name}.png", dpi=120)


def draw_ranges(axes, places: Sequence[float], values: list[list[float]], style: tuple, label: str) -> None:
    """Draw the mean and range over the seeds at each place."""
    colour, marker, line = style
    middle = [statistics.fmean(one) for one in values]
    reach = [[abs(end(one) - mean) for one, mean in zip(values, middle, strict=True)] for end in (min, max)]
    axes.errorbar(places, middle, reach, color=colour, marker=marker, linestyle=line, capsize=3, label=label)


def finish(axes, title: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)


def _short(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return value.get("architecture", value["model_type"])
    return "-".join(map(str, value)) if isinstance(value, list) else value


def _take_core(free) -> None:
    core = free.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    log = os.open(RUNS / f"core-{core}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _train_and_evaluate(folder: Path, content: dict, dataset: str | None, train: Callable[[Recipe], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # a stopped run's
    content = content | ({} if dataset is None else {"dataset": dataset})
    content |= {"output_dir": str(folder), "use_cpu": True, "dataloader_num_workers": 0, "disable_tqdm": True}
    content |= {"save_strategy": "no", "eval_strategy": "no", "monitors": []}
    file = folder.with_name(f"{folder.name}.yaml")
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    recipe = resolve(parse_recipe(file))
    file.unlink()
    train(recipe)
    data = recipe.data
    splits = (open_split(data, data.train_split), open_split(data, data.eval_split))
    results = evaluate_encoder(folder, splits, ("linear", "knn", "few-shot"), shots=(1, 10))
    (folder / "results.json").write_text(json.dumps({"encoder": results}, indent=2) + "\n", encoding="utf-8")


def _measured(folder: Path) -> dict[str, float]:
    results = RunFolder(folder).read_results()["encoder"]
    measured = {name: 100 * results[f"eval_{name}"] for name in ACCURACIES}
    last = RunFolder(folder).read_metrics()[-_LAST:]
    for name in ("loss", "sigreg_loss") if last else ():
        measured[f"train_{name}"] = statistics.fmean(row[name] for row in last)
    return measured
