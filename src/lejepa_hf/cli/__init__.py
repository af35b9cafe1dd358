"""The `lejepa` command, a thin layer over functions of the other rooms. May import every room."""

import argparse
import logging
import sys

from ..data.errors import DataError
from . import encoder_commands, run_commands

# Name -> what `lejepa --help` says, and what adds its arguments to a parser.
_COMMANDS = {
    "evaluate": ("measure how good encoders are, on labelled images", encoder_commands.add_evaluate),
    "embed": ("a folder or dataset -> a Parquet file of embeddings", encoder_commands.add_embed),
    "demo": ("a browser page that shows what an encoder sees", encoder_commands.add_demo),
    "export": ("a run or checkpoint -> an encoder folder for AutoModel", encoder_commands.add_export),
    "push": ("a finished run -> encoder, card and pictures on the Hub", encoder_commands.add_push),
    "card": ("write the model card of a run's encoder again", run_commands.add_card),
    "report": ("a run -> report.html in its folder, a page that needs no other files", run_commands.add_report),
    "select": ("rank runs without labels, by held-out loss / weight^0.4", run_commands.add_select),
    "statistics": ("measure how Gaussian the projections of a run are", run_commands.add_statistics),
    "plan": ("RECIPE [--key value ...]: what a run will cost, before any training", run_commands.add_plan),
}


def main(arguments: list[str] | None = None) -> int:
    """
    `lejepa train | plan | evaluate | embed | demo | export | card | push | report | select | statistics`.

    Args:
        arguments (`list[str]`, *optional*): Command line; the process's own if missing.

    Returns:
        `int`: Exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "train":
        from ..runs.pretraining import main as train

        return train(arguments[1:])
    options, overrides = _parser().parse_known_args(arguments)
    if overrides and options.command is not run_commands.plan:
        _parser().parse_args(arguments)  # ends with an error that names the unknown argument
    options.overrides = overrides
    # Only this package's: libraries have handlers of their own, and their lines would appear twice.
    logger, to_stderr = logging.getLogger("lejepa_hf"), logging.StreamHandler()
    logger.setLevel(logging.INFO)
    logger.addHandler(to_stderr)
    try:
        return options.command(options)
    except (ValueError, OSError, ImportError, DataError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        logger.removeHandler(to_stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lejepa", description="Pretrain and use vision encoders with LeJEPA.")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("train", help="RECIPE [--key value ...]: pretrain, evaluate, export", add_help=False)
    for name, (text, add_arguments) in _COMMANDS.items():
        add_arguments(commands.add_parser(name, help=text))
    return parser
