"""`lejepa train`: help and refusals at once; the run itself imports torch, which takes seconds."""

import os
import signal
import sys


def run_training(arguments: list[str]) -> int:
    """`lejepa train` with these arguments, as in [`~runs.pretraining.main`], which makes the run. Its exit status."""
    from ..runs.recipe_help import USAGE, format_help

    if {"-h", "--help"}.intersection(arguments):
        sys.stdout.write(f"{format_help()}\n")
        return 0
    if not arguments:
        sys.stderr.write(f"{USAGE}\n")
        return 2
    try:
        _check_early(arguments)
        from ..runs.pretraining import main as train
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT
    return train(arguments)


def _check_early(arguments: list[str]) -> None:
    """Refuse mistakes before the run is imported; with several processes, on all of them if one refuses."""
    from ..runs.early_checks import check_early

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        check_early(arguments)
        return
    from ..system.distributed import OtherRankFailed, starting_together  # which takes seconds

    try:
        with starting_together():
            check_early(arguments)
    except OtherRankFailed as error:
        raise ValueError(str(error)) from error
