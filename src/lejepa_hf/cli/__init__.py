"""The `lejepa` command, a thin layer over functions of the other rooms. May import every room."""

import argparse
import logging
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

from ..data.errors import DataError
from ..system.quiet import is_quiet, quietly
from . import encoder_commands, run_commands
from .train_command import run_training

_QUIET = "--quiet"


def main(arguments: list[str] | None = None) -> int:
    """
    Run `lejepa train | plan | recipes | evaluate | transfer | embed | demo | export | card | push | report | select |
    statistics` with these arguments, or those of the process, and return the exit status.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with quietly(_QUIET in given):
        return _run([argument for argument in given if argument != _QUIET])


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["train"]:
        return run_training(arguments[1:])
    arguments = [_with_underscores(argument) for argument in arguments]
    options, overrides = _parser().parse_known_args(arguments)
    if overrides and arguments[0] != "plan":
        _parser().parse_args(arguments)  # ends with an error that names the unknown argument
    options.overrides = overrides
    # Only this package's: libraries have handlers of their own, and their lines would appear twice.
    logger, to_stderr = logging.getLogger("lejepa_hf"), logging.StreamHandler()
    logger.setLevel(logging.WARNING if is_quiet() else logging.INFO)
    logger.addHandler(to_stderr)
    try:
        with _hidden_bars():
            text = options.command(options)
        if text is not None:
            sys.stdout.write(f"{text}\n")
        return options.status
    except (ValueError, OSError, ImportError, DataError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except RuntimeError as error:
        from ..system.distributed import explain_lost_process, is_lost_process  # which takes seconds

        if not is_lost_process(error):
            raise
        sys.stderr.write(f"error: {explain_lost_process(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 128 + signal.SIGINT
    finally:
        logger.removeHandler(to_stderr)


def _hidden_bars() -> AbstractContextManager[None]:
    if not is_quiet():
        return nullcontext()
    from ..system.progress_bars import hidden_progress_bars  # which takes a second

    return hidden_progress_bars()


def _with_underscores(argument: str) -> str:
    """`--train-split=a-b` -> `--train_split=a-b`: options may be written with dashes."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lejepa", description="Pretrain and use vision encoders with LeJEPA.")
    version = import_module(__name__.partition(".")[0]).__version__
    parser.add_argument(
        _QUIET, action="store_true", help="with any command: no progress bars, only warnings, errors and results"
    )
    parser.add_argument("--version", action="version", version=f"lejepa-hf {version}")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("train", help="RECIPE_OR_IMAGES [--key value ...]: pretrain, evaluate, export", add_help=False)
    for name, (text, add_arguments, run) in (encoder_commands.COMMANDS | run_commands.COMMANDS).items():
        command = commands.add_parser(name, help=text)
        command.set_defaults(command=run, status=0)
        add_arguments(command.add_argument)
    return parser
