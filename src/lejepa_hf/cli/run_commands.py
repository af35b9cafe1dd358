"""Commands that read a run or a recipe: plan, recipes, report, card, select, statistics."""

import argparse
import sys
from pathlib import Path

from .encoder_commands import AddArgument


def _add_plan(add: AddArgument) -> None:
    add("recipe", help="recipe, a YAML file or a name that `lejepa recipes` lists; or images, as of `lejepa train`")
    add("--seconds", type=float, default=10.0, help="duration of the dry run after its warm-up, in seconds (10)")
    add(
        "--measure_normalisation", action="store_true",
        help="instead of a plan, print `pixel_range`, `image_mean` and `image_std` of up to 512 of the images",
    )  # fmt: skip
    add(
        "--fit", action="store_true",
        help="choose batch, accumulation, recomputation of activations and compilation by dry runs; same loss",
    )  # fmt: skip


def _plan(options: argparse.Namespace) -> str:
    from ..runs.early_checks import check_early

    arguments = [options.recipe, *options.overrides]
    check_early(arguments)  # before torch is imported
    from ..runs.own_images import with_recipe
    from ..runs.plan import format_plan, make_plan
    from ..runs.recipes import parse_recipe

    if options.fit and options.measure_normalisation:
        raise ValueError("`--fit` and `--measure_normalisation` are two commands: give one of them.")
    name, *pairs = with_recipe(arguments)
    if options.fit:
        from ..runs.fitting import fit, format_fit

        found = fit(name, pairs, options.seconds)
        options.status = 0 if found.chosen is not None else 1
        return format_fit(found)
    if options.measure_normalisation:
        from ..runs.plan import plan_normalisation

        return plan_normalisation(parse_recipe(name, pairs))
    plan = make_plan(parse_recipe(name, pairs), options.seconds)
    options.status = 0 if plan.measured.fits else 1
    return format_plan(plan)


def _add_recipes(add: AddArgument) -> None:
    add(
        "name", nargs="*",
        help="nothing lists all recipes; `show NAME` prints one, to read it or to make your own; NAME prints its path",
    )  # fmt: skip


def _recipes(options: argparse.Namespace) -> str | Path:
    from ..runs.recipe_table import format_recipes
    from ..system.installed_package import find_packaged

    match options.name:
        case []:
            return format_recipes()
        case ["show", name]:
            return find_packaged(name).read_text(encoding="utf-8").rstrip()
        case [name]:
            return find_packaged(name)
    raise ValueError(f"`lejepa recipes` takes a NAME or `show NAME`, got {' '.join(options.name)!r}.")


def _add_report(add: AddArgument) -> None:
    add("run", nargs="+", help="run folder, finished or not; several are compared on one page")
    add("--out", metavar="FILE", help="page to write (RUN/report.html; of several runs, report.html in this folder)")


def _report(options: argparse.Namespace) -> Path:
    if len(options.run) == 1:
        from ..hub.report import write_report

        return write_report(options.run[0], options.out)
    from ..hub.comparison import write_comparison

    return write_comparison(options.run, options.out or "report.html")


def _add_card(add: AddArgument) -> None:
    add("run", help="folder of a finished run")
    add("--encoder", metavar="FOLDER", help="exported encoder of that run (RUN/encoder)")


def _card(options: argparse.Namespace) -> Path:
    from ..hub.model_card import rewrite_model_card

    return rewrite_model_card(options.run, options.encoder)


def _add_select(add: AddArgument) -> None:
    add("run", nargs="+", help="run folder; its last evaluation and those of its checkpoints are compared")
    add("--out", metavar="FOLDER", help="folder for the picture select.png; no picture if missing")


def _select(options: argparse.Namespace) -> str | Path:
    from ..hub.pictures.accuracies import draw_scores
    from ..runs.selection import describe_correlation, find_candidates, format_candidates

    candidates = find_candidates(options.run)
    table = format_candidates(candidates)
    if options.out is None:
        return table
    sys.stdout.write(f"{table}\n\n")  # even if the picture fails
    return draw_scores(Path(options.out) / "select.png", candidates, describe_correlation(candidates))


def _add_statistics(add: AddArgument) -> None:
    add("run", help="folder of a finished run")
    add("--images", type=int, default=512, help="largest number of training images to measure on (512)")


def _statistics(options: argparse.Namespace) -> str:
    import torch

    from ..evaluation.embedding_statistics import format_statistics
    from ..runs.finishing import measure_projections
    from ..runs.recipes import parse_recipe
    from ..system.run_folder import RunFolder

    run = RunFolder(options.run)
    if not (run.pretraining / "config.json").is_file():
        raise ValueError(f"{options.run!r} is not a finished run: it has no pretraining/.")
    # The recipe of a run on a GPU may need what other devices do not have, such as bf16.
    recipe = parse_recipe(run.recipe, [] if torch.accelerator.is_available() else ["--use_cpu"])
    statistics = measure_projections(run.path, recipe, options.images)
    return f"{format_statistics(statistics)}\n\n{run.picture('gaussianity')}"


# As in `encoder_commands`.
COMMANDS = {
    "card": ("write the model card of a run's encoder again", _add_card, _card),
    "report": ("a run, or several side by side -> an HTML page that needs no other files", _add_report, _report),
    "select": ("rank runs without labels, by held-out loss / weight^0.4", _add_select, _select),
    "statistics": ("measure how Gaussian the projections of a run are", _add_statistics, _statistics),
    "recipes": ("list the recipes of the package, or print one of them", _add_recipes, _recipes),
    "plan": ("RECIPE_OR_IMAGES [--key value ...]: what a run will cost, before any training", _add_plan, _plan),
}
