"""Commands that read a run or a recipe: plan, report, card, select, statistics."""

import argparse
import sys
from pathlib import Path


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lejepa plan`."""
    parser.add_argument("recipe", help="recipe, a YAML file")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration of the dry run after its warm-up, in seconds (10)"
    )
    parser.set_defaults(command=plan)


def plan(options: argparse.Namespace) -> int:
    """`lejepa plan RECIPE [--key value ...]`."""
    from ..runs.plan import make_plan
    from ..runs.plan_text import format_plan
    from ..runs.recipes import parse_recipe

    made = make_plan(parse_recipe(options.recipe, options.overrides), options.seconds)
    sys.stdout.write(f"{format_plan(made)}\n")
    return 0


def add_report(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lejepa report`."""
    parser.add_argument("run", help="run folder, finished or not")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from ..hub.report import write_report

    sys.stdout.write(f"{write_report(options.run)}\n")
    return 0


def add_card(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lejepa card`."""
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--encoder", metavar="FOLDER", help="exported encoder of that run (RUN/encoder)")
    parser.set_defaults(command=_card)


def _card(options: argparse.Namespace) -> int:
    from ..hub.model_card import rewrite_model_card

    sys.stdout.write(f"{rewrite_model_card(options.run, options.encoder)}\n")
    return 0


def add_select(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lejepa select`."""
    parser.add_argument("run", nargs="+", help="run folder; its checkpoints are compared too")
    parser.add_argument("--out", metavar="FOLDER", help="folder for the picture select.png; no picture if missing")
    parser.set_defaults(command=_select)


def _select(options: argparse.Namespace) -> int:
    from ..hub.pictures.score_and_accuracy import draw_scores
    from ..runs.selection import describe_correlation, find_candidates, format_candidates

    candidates = find_candidates(options.run)
    sys.stdout.write(f"{format_candidates(candidates)}\n")
    if options.out is not None:
        picture = draw_scores(Path(options.out) / "select.png", candidates, describe_correlation(candidates))
        sys.stdout.write(f"\n{picture}\n")
    return 0


def add_statistics(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lejepa statistics`."""
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument(
        "--images", type=int, default=512, help="largest number of training images to measure on (512)"
    )
    parser.set_defaults(command=_statistics)


def _statistics(options: argparse.Namespace) -> int:
    import torch

    from ..evaluation.embedding_statistics import format_statistics
    from ..runs.finishing import measure_projections
    from ..runs.recipes import parse_recipe

    run = Path(options.run)
    if not (run / "pretraining" / "config.json").is_file():
        raise ValueError(f"{options.run!r} is not a finished run: it has no pretraining/.")
    # The recipe of a run on a GPU may need what other devices do not have, such as bf16.
    recipe = parse_recipe(run / "recipe.yaml", [] if torch.accelerator.is_available() else ["--use_cpu"])
    statistics = measure_projections(run, recipe, options.images)
    sys.stdout.write(f"{format_statistics(statistics)}\n\n{run / 'pictures' / 'gaussianity.png'}\n")
    return 0
