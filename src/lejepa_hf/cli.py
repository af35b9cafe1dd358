"""The `lejepa` command: thin doors to what can also be called from Python."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """
    `lejepa train | evaluate | export`.

    Args:
        arguments (`list[str]`, *optional*): The command line; that of the process if missing.

    Returns:
        `int`: Exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "train":
        from .train import main as train

        return train(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluation.evaluate_encoder import evaluate_encoder, format_table

    results = evaluate_encoder(
        options.encoder, options.dataset, options.protocol, options.train_split, options.eval_split
    )
    sys.stdout.write(format_table({options.encoder: results}) + "\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    from .hub.export import export_encoder

    sys.stdout.write(f"{export_encoder(options.run, options.folder)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lejepa", description="Pretrain and use vision encoders with LeJEPA.")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("train", help="RECIPE [--key value ...]: pretrain, evaluate, export", add_help=False)
    evaluate = commands.add_parser("evaluate", help="how good is an encoder")
    evaluate.add_argument("encoder", help="folder or Hub id of any vision encoder")
    evaluate.add_argument("--dataset", required=True, help="digits, a Hub dataset id, a folder or Parquet files")
    evaluate.add_argument("--protocol", nargs="+", default=["linear", "knn"], help="linear, knn, few-shot")
    evaluate.add_argument("--train_split", default="train")
    evaluate.add_argument("--eval_split", default="test")
    evaluate.set_defaults(command=_evaluate)
    export = commands.add_parser("export", help="a run or checkpoint -> an encoder folder for AutoModel")
    export.add_argument("run", help="run folder or checkpoint")
    export.add_argument("folder", nargs="?", help="where to write, <run>/encoder if missing")
    export.set_defaults(command=_export)
    return parser
