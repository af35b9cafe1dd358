"""
Three ways to the same encoder with the same time, or the same number of steps: LeJEPATrainer with a recipe; lightly's
loss, head and multi-crop transform in a plain loop; and the paper's method in its shortest form, a bare loop with
torchvision's transforms.

    python benchmarks/study_equal_time.py                # 20 minutes for each
    python benchmarks/study_equal_time.py --steps 2000   # beside it: as many steps for each

Further `--key value` pairs override the recipe. Network, initial weights, batch, number, sizes and scales of views,
weight of SIGReg, optimizer and shape of the schedule are the same, and so are torch's threads and the loader's
workers. Each run has a process of its own, and the ways take turns, so that a machine that becomes slower does so for
all of them.

The schedule needs a number of steps: with equal time each run first trains half a minute, which is not counted, and
its speed fixes how many steps fit. Time runs from before the loader starts to the end of the last step. Rows have the
true time, which differs from the planned one if the machine's speed changes. At the points of `--evaluate_at` the
encoder is copied in memory. All copies are written and evaluated after training, on the labels of the whole training
split and all of the held-out split. Nothing is evaluated or saved during training.

Rows go to results/study_equal_time.csv, one for each point of a run. A stopped study continues with the runs it still
needs. `settings` is a checksum of the recipe: one file has rows of one recipe and one budget.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import transformers
from benchmark_training import (
    PlainLoss,
    Transformed,
    endless,
    has_lightly,
    lightly_loss,
    lightly_transform,
    torchvision_transform,
)
from matplotlib.figure import Figure
from study_runs import PICTURES, RESULTS, ROOT, RUNS, STYLES, draw_ranges, finish, mean_and_range
from torch import nn
from torch.utils.data import DataLoader

from lejepa_hf import LeJEPAForPreTraining, export_encoder
from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.runs.initial_model import build_model
from lejepa_hf.runs.pretraining import build
from lejepa_hf.runs.recipe_sources import held_out_source, open_split, training_source
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.resolving import ResolvedRecipe, resolve
from lejepa_hf.system.devices import cores_of_this_process
from lejepa_hf.system.installed_package import package_versions

RECIPE = ROOT / "recipes" / "cifar10" / "resnet_small.yaml"
# The other loops have neither checkpoints nor evaluations, which would take time from ours alone.
ONLY_TRAINING = {"save_strategy": "no", "eval_strategy": "no", "use_cpu": True, "disable_tqdm": True}
ACCURACIES = {"linear_top1": "linear", "knn_top1": "k-NN"}
MODES = {"time": "seconds", "steps": "steps"}  # what is equal, and the axis of its picture
WARMUP_SECONDS = 30
WARMUP_STEPS = 4  # at least


class Watch:
    """
    Follows a run from outside: notes when each step was done, and copies the encoder after some of them.

    Args:
        points: Steps after which the encoder is copied.
        seconds: Time after which the run is to stop; if missing, it goes on to its last step.
    """

    def __init__(self, points: set[int], seconds: float | None = None):
        self.points, self.seconds, self.times, self.copies = points, seconds, [], {}

    def begin(self, encoder: nn.Module) -> None:
        self.encoder, self.start = encoder, time.perf_counter()

    def is_over(self) -> bool:
        """Call it after each step; true if the run is to stop."""
        self.times.append(time.perf_counter() - self.start)
        if len(self.times) in self.points:
            self.copies[len(self.times)] = {name: value.clone() for name, value in self.encoder.state_dict().items()}
        return self.seconds is not None and self.times[-1] >= self.seconds and len(self.times) >= WARMUP_STEPS


class Watched(transformers.TrainerCallback):
    """Lets a [`Watch`] follow a Trainer."""

    def __init__(self, watch: Watch):
        self.watch = watch

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= self.watch.is_over()


def train_ours(recipe: ResolvedRecipe, watch: Watch) -> LeJEPAForPreTraining:
    """As `lejepa train` does, with monitors and logged rows, but without evaluations and checkpoints."""
    trainer, _ = build(recipe)
    trainer.add_callback(Watched(watch))
    watch.begin(trainer.model.encoder)
    trainer.train()
    return trainer.model


def train_lightly(
    recipe: ResolvedRecipe, watch: Watch, colours: Callable[..., dict] = lambda data: {}
) -> LeJEPAForPreTraining:
    """lightly's transform with its own colours, its head, which takes global and local views apart, and its loss."""
    from lightly.models.modules.heads import LeJEPAProjectionHead

    model = fresh_model(recipe)
    hidden, *_, output = model.config.projector_dims
    head = LeJEPAProjectionHead(model.encoder.embedding_dim, hidden, output, len(model.config.projector_dims))
    transform = lightly_transform(recipe.data, **colours(recipe.data))
    loop(recipe, watch, model, head, transform, lightly_loss(model.config), together=False)
    return model


def train_minimal(recipe: ResolvedRecipe, watch: Watch) -> LeJEPAForPreTraining:
    """torchvision's transforms with the recipe's colours, one norm for all views, the formulas as they are written."""
    model = fresh_model(recipe)
    head = nn.Sequential()
    widths = [model.encoder.embedding_dim, *model.config.projector_dims]
    for fan_in, fan_out in zip(widths[:-2], widths[1:-1], strict=True):
        head.extend([nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU()])
    head.append(nn.Linear(widths[-2], widths[-1]))
    loop(recipe, watch, model, head, torchvision_transform(recipe.data), PlainLoss(model.config), together=True)
    return model


def recipe_colours(data) -> dict:
    """The recipe's colours in lightly's words; its transform solarises the second global view only."""
    return {
        "hf_prob": data.horizontal_flip_probability,
        "cj_prob": data.color_jitter_probability,
        "cj_bright": 2 * data.brightness_jitter,  # `cj_strength` is 0.5, and another one would not reach all views
        "cj_contrast": 2 * data.contrast_jitter,
        "cj_sat": 2 * data.saturation_jitter,
        "cj_hue": 2 * data.hue_jitter,
        "random_gray_scale": data.grayscale_probability,
        "gaussian_blur": (data.blur_probability,) * 3,
        "sigmas": tuple(data.blur_sigma),
        "solarization_prob": data.solarize_probability,
    }


ARMS = {
    "ours": train_ours,
    "lightly": train_lightly,
    "minimal": train_minimal,
    "lightly with our colours": partial(train_lightly, colours=recipe_colours),
}
DEFAULT_ARMS = ("ours", "lightly", "minimal")


def fresh_model(recipe: ResolvedRecipe) -> LeJEPAForPreTraining:
    """The initial weights of `train_ours`."""
    transformers.set_seed(recipe.training.seed)
    return build_model(recipe.config).train()


def loop(recipe: ResolvedRecipe, watch: Watch, model, head: nn.Module, transform, loss, together: bool) -> None:
    """A plain loop. `loss` gets projections (V, B, K); `together` puts all views through the head at once."""
    data, args = recipe.data, recipe.training
    source, encoder = training_source(data), model.encoder
    rows = Transformed(source.dataset, source.image_column, transform)
    workers, batch_size = args.dataloader_num_workers, args.per_device_train_batch_size
    loader = DataLoader(rows, batch_size, True, num_workers=workers, drop_last=True, persistent_workers=workers > 0)
    parameters = [*encoder.parameters(), *head.parameters()]
    groups = [  # as the Trainer: norms and biases do not decay
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (args.adam_beta1, args.adam_beta2)
    optimizer = torch.optim.AdamW(groups, args.learning_rate, betas, args.adam_epsilon, fused=True)
    schedule = transformers.get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        args.get_warmup_steps(args.max_steps),
        args.max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    watch.begin(encoder)
    for views in islice(endless(loader), args.max_steps):
        sizes = [torch.cat(of_size) for of_size in (views[: data.num_global_views], views[data.num_global_views :])]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            embeddings = [encoder(of_size).pooler_output for of_size in sizes]
            rows_of_all = head(torch.cat(embeddings)) if together else torch.cat([head(one) for one in embeddings])
        projections = rows_of_all.float().unflatten(0, (len(views), batch_size))  # as ours: the loss is in fp32
        value = loss(projections, data.num_global_views)
        optimizer.zero_grad()
        value.backward()
        if args.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        optimizer.step()
        schedule.step()
        if watch.is_over():
            break


# Runs


def read_recipe(options: argparse.Namespace, seed: int = 0, steps: int = 1, folder: str = "unused") -> ResolvedRecipe:
    settings = ONLY_TRAINING | {"dataloader_num_workers": options.workers, "report_to": "none"}
    settings |= {"seed": seed, "max_steps": steps, "output_dir": folder}
    settings |= {} if options.dataset is None else {"dataset": options.dataset}
    last = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return resolve(parse_recipe(options.recipe, [*options.overrides, *last]))


def check(options: argparse.Namespace) -> ResolvedRecipe:
    """The recipe, after a look at what would only fail in the middle of the study."""
    recipe = read_recipe(options)
    data, args, config = recipe.data, recipe.training, recipe.config
    uses_lightly = any(arm.startswith("lightly") for arm in options.arms)
    if uses_lightly and not has_lightly():
        raise ValueError("lightly cannot be imported: install it as docs/studies.md says, or leave it out of `--arms`")
    if uses_lightly and (data.num_global_views != 2 or len({*config.projector_dims[:-1]}) != 1):
        raise ValueError("lightly's transform cuts 2 global views, and its head has hidden layers of one width.")
    if data.num_local_views < 1 or data.eval_split is None or data.mixture is not None or data.streaming:
        raise ValueError("The recipe needs local views, an `eval_split`, and one dataset that is not streamed.")
    if args.gradient_accumulation_steps != 1 or args.ema_decay or args.torch_compile:
        raise ValueError("The plain loops have no gradient accumulation, averages or compilation: leave them out.")
    return recipe


def checksum(recipe: ResolvedRecipe) -> str:
    """Of the keys that are the same in all runs; the dataset may lie in another place."""
    other = ("output_dir", "seed", "max_steps", "dataset")
    kept = {name: value for name, value in recipe.resolved().items() if name not in other}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


def planned_steps(times: list[float], seconds: float) -> int:
    """Steps that fit into the time, from the times of a short run: its first step includes the loader's start."""
    begin = len(times) // 4  # the loader's first batches were ready early or late
    step = (times[-1] - times[begin]) / (len(times) - 1 - begin)
    return max(1, 1 + int((seconds - times[0]) / step))


def points(fractions: list[float], steps: int) -> dict[int, float]:
    """The fraction of each step after which the encoder is copied; always of the last one."""
    return {max(1, round(fraction * steps)): fraction for fraction in [*fractions, 1.0]}


def warm_up(options: argparse.Namespace, arm: str, seed: int, folder: str) -> list[float]:
    """Times of the steps of a short run, with a schedule that never ends."""
    watch = Watch(set(), min(WARMUP_SECONDS, 60 * options.minutes / 2))
    ARMS[arm](read_recipe(options, seed, 10**6, folder), watch)
    return watch.times


def train(options: argparse.Namespace, arm: str, seed: int, steps: int, folder: str) -> None:
    """Train; write the copied encoders, and last of all a file with the step and the time of each."""
    recipe = read_recipe(options, seed, steps, f"{folder}/run")
    copied = points(options.evaluate_at, steps)
    watch = Watch(set(copied))
    model, data = ARMS[arm](recipe, watch), recipe.data
    processor = build_processor(
        data.global_crop_size, data.eval_crop_ratio, data.image_mean, data.image_std, data.pixel_range
    )
    for step, weights in watch.copies.items():
        model.encoder.load_state_dict(weights)
        export_encoder(model, f"{folder}/encoder-{step}", processor)
    trained = [
        {"fraction": copied[step], "steps": step, "seconds": round(watch.times[step - 1], 2)} for step in watch.copies
    ]
    Path(folder, "trained.json").write_text(json.dumps(trained))


def evaluate(options: argparse.Namespace, encoder: Path) -> dict[str, float]:
    """Held-out accuracies in %, on all cores."""
    torch.set_num_threads(cores_of_this_process())
    data = read_recipe(options).data
    splits = (open_split(data, data.train_split), held_out_source(data))
    results = evaluate_encoder(encoder, splits, [name.removesuffix("_top1") for name in ACCURACIES])
    return {name: round(100 * results[f"eval_{name}"], 2) for name in ACCURACIES}


def alone(options: argparse.Namespace, function: Callable, *arguments: object):
    """What a function returns in a process of its own, which has as many threads for every way."""
    RUNS.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _prepare, (threads(options),)) as process:
        return process.submit(function, options, *arguments).result()


def threads(options: argparse.Namespace) -> int:
    """One core for each worker of the loader, the others for training: what `lejepa train` does."""
    return max(1, cores_of_this_process() - options.workers)


def _prepare(number: int) -> None:
    multiprocessing.set_start_method(None, force=True)  # the loader's workers start as in a user's process
    torch.set_num_threads(number)
    log = os.open(RUNS / "equal_time.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def budget(options: argparse.Namespace) -> dict:
    is_time = options.steps is None
    return {"mode": "time" if is_time else "steps", "budget": options.minutes if is_time else options.steps}


def run(options: argparse.Namespace, arm: str, seed: int, common: dict) -> list[dict]:
    """Train and evaluate one run. A run that was trained already is only evaluated."""
    of_run = {"arm": arm, "seed": seed, **budget(options)}
    folder = RUNS / ",".join(["equal_time", common["settings"], *map(str, of_run.values())])
    if not (folder / "trained.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # a stopped run's
        steps = options.steps
        if steps is None:
            steps = planned_steps(alone(options, warm_up, arm, seed, f"{folder}/warm-up"), 60 * options.minutes)
            shutil.rmtree(folder / "warm-up", ignore_errors=True)
        say(f"seed {seed}, {arm}: {steps} steps")
        alone(options, train, arm, seed, steps, str(folder))
    rows = []
    for point in json.loads((folder / "trained.json").read_text()):
        point["images_per_second"] = round(common["batch"] * point["steps"] / point["seconds"], 1)
        point |= alone(options, evaluate, folder / f"encoder-{point['steps']}")
        say(f"seed {seed}, {arm}: " + ", ".join(f"{name} {value}" for name, value in point.items()))
        rows.append(of_run | point | common)
    return rows


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def of_all_rows(options: argparse.Namespace, recipe: ResolvedRecipe) -> dict:
    """Columns that are the same in all rows of an invocation."""
    data, made_with = recipe.data, package_versions()
    views = ((data.num_global_views, data.global_crop_size), (data.num_local_views, data.local_crop_size))
    return {
        "recipe": f"{options.recipe.parent.name}/{options.recipe.stem}",
        "settings": checksum(recipe),
        "batch": recipe.training.per_device_train_batch_size,
        "views": " + ".join(f"{number} x {size}" for number, size in views),
        "threads": threads(options),
        "workers": options.workers,
        **{name: made_with.get(name, "") for name in ("torch", "torchvision", "transformers")},
        "lightly": importlib.metadata.version("lightly") if has_lightly() else "",
        "commit": made_with.get("commit", ""),
    }


# Rows, table, picture


def read_rows(file: Path) -> list[dict]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def missing_turns(options: argparse.Namespace, rows: list[dict], settings: str) -> list[tuple[str, int]]:
    """Ways and seeds without rows, in turns: another way begins with each seed."""
    wanted = budget(options)
    same = [row for row in rows if row["mode"] == wanted["mode"]]
    if any(row["settings"] != settings for row in rows) or any(float(r["budget"]) != wanted["budget"] for r in same):
        raise ValueError(
            f"{options.results} has rows of another recipe or budget: move it, or name another `--results`."
        )
    there = {(row["arm"], int(row["seed"])) for row in same}
    turns = []
    for number, seed in enumerate(options.seeds):
        begin = number % len(options.arms)
        turns += [(arm, seed) for arm in [*options.arms[begin:], *options.arms[:begin]]]
    return [turn for turn in turns if turn not in there]


def add_rows(file: Path, rows: list[dict]) -> None:
    is_new = not file.is_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def values(rows: list[dict], name: str, **wanted: object) -> list[float]:
    """One figure for all seeds of the rows that have these values."""
    return [float(row[name]) for row in rows if all(str(row[key]) == str(value) for key, value in wanted.items())]


def table(rows: list[dict]) -> list[str]:
    """Lines of a Markdown table: means and ranges over the seeds at the end of training."""
    titles = ["equal", "way", "steps", "minutes", "images/s", *ACCURACIES.values()]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    last = [row for row in rows if float(row["fraction"]) == 1]
    there = {(row["mode"], row["arm"]) for row in last}
    for mode, arm in (pair for pair in itertools.product(MODES, ARMS) if pair in there):
        cells = [mode, arm]
        for name, unit, digits in (("steps", 1, 0), ("seconds", 60, 1), ("images_per_second", 1, 0)):
            cells.append(f"{statistics.fmean(values(last, name, mode=mode, arm=arm)) / unit:.{digits}f}")
        cells += [mean_and_range(values(last, name, mode=mode, arm=arm)) for name in ACCURACIES]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(rows: list[dict], file: Path) -> None:
    """Accuracies over seconds with equal time, and over steps with equal steps."""
    modes = [(mode, axis) for mode, axis in MODES.items() if values(rows, "seed", mode=mode)]
    figure = Figure(figsize=(9, 3.4 * len(modes)), layout="constrained")
    for panels, (mode, axis) in zip(figure.subplots(len(modes), len(ACCURACIES), squeeze=False), modes, strict=True):
        for axes, (accuracy, text) in zip(panels, ACCURACIES.items(), strict=True):
            for arm, style in zip(ARMS, STYLES, strict=True):
                of_arm = [row for row in rows if (row["mode"], row["arm"]) == (mode, arm)]
                at = sorted({float(row["fraction"]) for row in of_arm})
                places = [statistics.fmean(values(of_arm, axis, fraction=one)) for one in at]
                if at:
                    draw_ranges(axes, places, [values(of_arm, accuracy, fraction=one) for one in at], style, arm)
            axes.set_xlabel(f"{axis} of training")
            finish(axes, f"equal {mode}, {text}")
        panels[0].set_ylabel("held-out top-1 in %, mean and range")
    figure.axes[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="default: recipes/cifar10/resnet_small.yaml")
    parser.add_argument("--dataset", help="where the recipe's dataset lies, as in a recipe; default: the recipe's")
    parser.add_argument("--minutes", type=float, default=20, help="planned time of each run")
    parser.add_argument("--steps", type=int, help="steps of each run, in place of the time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(DEFAULT_ARMS))
    parser.add_argument("--evaluate_at", type=float, nargs="+", default=[0.25, 0.5], help="and at the end")
    parser.add_argument("--workers", type=int, default=1, help="of the loader; each takes a core from training")
    parser.add_argument("--results", type=Path, default=RESULTS / "study_equal_time.csv")
    options, options.overrides = parser.parse_known_args(arguments)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        recipe = check(options)
        common = of_all_rows(options, recipe)
        turns = missing_turns(options, read_rows(options.results), common["settings"])
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    os.environ["OMP_NUM_THREADS"] = str(threads(options))
    for number, (arm, seed) in enumerate(turns, 1):
        say(f"run {number} of {len(turns)}")
        add_rows(options.results, run(options, arm, seed, common))
    rows = read_rows(options.results)
    print("\n".join(table(rows)))
    is_ours = options.results == RESULTS / "study_equal_time.csv"
    draw(rows, PICTURES / "study_equal_time.png" if is_ours else options.results.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
