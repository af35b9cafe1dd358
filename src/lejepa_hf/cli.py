"""The `lejepa` command: thin doors to what can also be called from Python."""

import argparse
import logging
import sys
from pathlib import Path

from .data.errors import DataError


def main(arguments: list[str] | None = None) -> int:
    """
    `lejepa train | plan | evaluate | embed | demo | export | card | push | report | select |
    statistics`.

    Args:
        arguments (`list[str]`, *optional*): The command line; that of the process if missing.

    Returns:
        `int`: Exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "train":
        from .runs.pretraining import main as train

        return train(arguments[1:])
    options, overrides = _parser().parse_known_args(arguments)
    if overrides and options.command is not _plan:
        _parser().parse_args(arguments)  # says which of them is unknown
    options.overrides = overrides
    # Of this package alone: libraries have handlers of their own and would say everything twice.
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


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluation.compare_encoders import compare_encoders, format_conditions
    from .evaluation.dataset_presets import ignored_labels
    from .evaluation.embeddings.store import default_cache
    from .evaluation.evaluate_encoder import format_table
    from .evaluation.labelled_sources import labelled_sources
    from .evaluation.protocols.registry import check_protocols
    from .system.distributed import is_first_rank, join_processes

    check_protocols(options.protocol)
    shots = [int(k) if k.isdecimal() else k for k in options.shots] if options.shots else None
    cache = None if options.no_cache else options.cache_dir or default_cache()
    join_processes()
    splits = labelled_sources(
        options.dataset, options.train_split, options.eval_split, config=options.config, revision=options.revision,
        image_column=options.image_column, label_column=options.label_column, streaming=options.streaming,
    )  # fmt: skip
    record = compare_encoders(
        options.encoder, splits, options.protocol, options.out, batch_size=options.batch_size, shots=shots,
        cache_dir=cache, resolution=options.resolution,
        ignore_labels=options.ignore_labels or ignored_labels(options.dataset),
        learning_rate=options.learning_rate, num_epochs=options.num_epochs,
    )  # fmt: skip
    if is_first_rank():
        results = {name: found["results"] for name, found in record["encoders"].items()}
        sys.stdout.write(f"{format_table(results)}\n\n{format_conditions(record)}\n")
    return 0


def _embed(options: argparse.Namespace) -> int:
    from .evaluation.embeddings.embed_images import Features, embed_images

    streaming = "[" not in options.split if options.streaming is None else options.streaming
    embedded = embed_images(
        options.model, options.dataset, options.out,
        Features(options.pooling, options.layers, options.dtype, options.bf16),
        options.batch_size, options.device, options.overwrite,
        split=options.split, config=options.config, streaming=streaming, image_column=options.image_column,
        label_column=options.label_column, revision=options.revision, data_files=options.data_files,
    )  # fmt: skip
    sys.stdout.write(
        f"{embedded.out}: {embedded.num_images} embeddings of {embedded.dim} numbers, "
        f"{embedded.images_per_second:.1f} images/s\n"
    )
    return 0


def _demo(options: argparse.Namespace) -> int:
    from .hub.demo.page import check_gradio, serve
    from .hub.demo.settings import DemoSettings

    check_gradio()
    settings = DemoSettings(options.encoder, options.dataset, options.split, options.images)
    if options.push is None:
        if options.private:
            raise ValueError("`--private` is said of a Space: it needs `--push USER/NAME`.")
        serve(settings, options.host, options.port)
        return 0
    from .hub.demo.space import push_space

    sys.stdout.write(f"{push_space(settings, options.push, options.private)}\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    from .hub.export import export_encoder

    encoder = export_encoder(options.run, options.folder, averaged=options.averaged)
    sys.stdout.write(f"{encoder}\n")
    if options.onnx:
        from .hub.onnx_export import export_onnx

        sys.stdout.write(f"{export_onnx(encoder)}\n")
    return 0


def _card(options: argparse.Namespace) -> int:
    from .hub.rewritten_card import remake_model_card

    sys.stdout.write(f"{remake_model_card(options.run, options.encoder)}\n")
    return 0


def _push(options: argparse.Namespace) -> int:
    from .hub.push import push_run

    sys.stdout.write(f"{push_run(options.run, options.repo_id, options.private, options.revision)}\n")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from .runs.plan import make_plan
    from .runs.plan_text import format_plan
    from .runs.recipes import parse_recipe

    plan = make_plan(parse_recipe(options.recipe, options.overrides), options.seconds)
    sys.stdout.write(f"{format_plan(plan)}\n")
    return 0


def _report(options: argparse.Namespace) -> int:
    from .hub.report import write_report

    sys.stdout.write(f"{write_report(options.run)}\n")
    return 0


def _select(options: argparse.Namespace) -> int:
    from .hub.pictures.score_and_accuracy import draw_scores
    from .runs.selection import describe_correlation, find_candidates, format_candidates

    candidates = find_candidates(options.run)
    sys.stdout.write(f"{format_candidates(candidates)}\n")
    if options.out is not None:
        picture = draw_scores(Path(options.out) / "select.png", candidates, describe_correlation(candidates))
        sys.stdout.write(f"\n{picture}\n")
    return 0


def _statistics(options: argparse.Namespace) -> int:
    import torch

    from .evaluation.embedding_statistics import format_statistics
    from .runs.finishing import measure_projections
    from .runs.recipes import parse_recipe

    run = Path(options.run)
    if not (run / "pretraining" / "config.json").is_file():
        raise ValueError(f"{options.run!r} is no finished run: no pretraining/ there.")
    # The recipe of a run on a GPU may ask for what is only there, bf16 for one.
    recipe = parse_recipe(run / "recipe.yaml", [] if torch.accelerator.is_available() else ["--use_cpu"])
    statistics = measure_projections(run, recipe, options.images)
    sys.stdout.write(f"{format_statistics(statistics)}\n\n{run / 'pictures' / 'gaussianity.png'}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lejepa", description="Pretrain and use vision encoders with LeJEPA.")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("train", help="RECIPE [--key value ...]: pretrain, evaluate, export", add_help=False)
    _add_evaluate(commands.add_parser("evaluate", help="how good are encoders, on labelled images"))
    _add_embed(commands.add_parser("embed", help="a folder or dataset -> a Parquet file of embeddings"))
    demo = commands.add_parser("demo", help="a page in the browser to look at an encoder")
    demo.add_argument("encoder", help="run folder, encoder folder or Hub id of any vision encoder")
    demo.add_argument("--dataset", help="digits, a Hub dataset id or a folder: examples, and images to be neighbours")
    demo.add_argument("--split", default="train", help="of the dataset (train)")
    demo.add_argument("--images", type=int, default=2000, help="of the dataset to find neighbours among (2000)")
    demo.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1, this machine alone)")
    demo.add_argument("--port", type=int, help="the first free one from 7860 on if missing")
    demo.add_argument("--push", metavar="USER/NAME", help="push the page as a Space of the Hub instead")
    demo.add_argument("--private", action="store_true", default=None, help="if the Space is made now")
    demo.set_defaults(command=_demo)
    export = commands.add_parser("export", help="a run or checkpoint -> an encoder folder for AutoModel")
    export.add_argument("run", help="run folder, or one of its checkpoints")
    export.add_argument(
        "folder", nargs="?", help="where to write; RUN/encoder, of checkpoint-N RUN/encoder-N if missing"
    )
    export.add_argument("--averaged", action="store_true", help="the moving average, of a run with `ema_decay`")
    export.add_argument("--onnx", action="store_true", help="model.onnx too, beside the weights")
    export.set_defaults(command=_export)
    card = commands.add_parser("card", help="the card of a run's encoder, written anew")
    card.add_argument("run", help="folder of a finished run")
    card.add_argument("--encoder", metavar="FOLDER", help="an exported encoder of that run (RUN/encoder)")
    card.set_defaults(command=_card)
    push = commands.add_parser("push", help="a finished run -> encoder, card and pictures on the Hub")
    push.add_argument("run", help="folder of a finished run, or an exported encoder")
    push.add_argument("repo_id", help="USER/NAME; the same command after a failure goes on")
    push.add_argument("--private", action="store_true", default=None, help="if the repository is made now")
    push.add_argument("--revision", metavar="BRANCH", help="branch to write to, made if missing (main)")
    push.set_defaults(command=_push)
    report = commands.add_parser("report", help="a run -> report.html in its folder, one page that needs nothing else")
    report.add_argument("run", help="run folder, finished or not")
    report.set_defaults(command=_report)
    select = commands.add_parser("select", help="which run is best, without labels: by held-out loss / weight^0.4")
    select.add_argument("run", nargs="+", help="run folder; its last evaluation, and those of its checkpoints")
    select.add_argument("--out", metavar="FOLDER", help="draw select.png there, too; no picture if missing")
    select.set_defaults(command=_select)
    statistics = commands.add_parser("statistics", help="how Gaussian are the projections of a run")
    statistics.add_argument("run", help="folder of a finished run")
    statistics.add_argument("--images", type=int, default=512, help="training images to look at, at most (512)")
    statistics.set_defaults(command=_statistics)
    plan = commands.add_parser("plan", help="RECIPE [--key value ...]: what it will cost, before any training")
    plan.add_argument("recipe", help="YAML file")
    plan.add_argument("--seconds", type=float, default=10.0, help="of training to rehearse after the warm-up (10)")
    plan.set_defaults(command=_plan)
    return parser


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("encoder", nargs="+", help="folder or Hub id of any vision encoder; a column each")
    evaluate.add_argument(
        "--dataset", required=True, help="a preset (digits, imagenet-1k, food101, ...), a Hub id, a folder or files"
    )
    evaluate.add_argument(
        "--protocol",
        nargs="+",
        default=["linear", "knn"],
        help="linear, knn, few-shot, logistic, retrieval, fine-tune; segmentation, of masks",
    )
    evaluate.add_argument("--train_split", help="fits the protocols (that of the preset, or train)")
    evaluate.add_argument("--eval_split", help="measures them (that of the preset, or test)")
    evaluate.add_argument("--shots", nargs="+", metavar="K", help="images a class of few-shot (1 2 5 10 100 all)")
    evaluate.add_argument("--resolution", type=int, help="side of the images of segmentation (the processor's)")
    evaluate.add_argument(
        "--ignore_labels",
        nargs="+",
        type=int,
        metavar="N",
        help="of masks: what is no class (that of the preset, 255)",
    )
    evaluate.add_argument("--learning_rate", type=float, help="of fine-tune, instead of the best of four")
    evaluate.add_argument("--num_epochs", type=int, help="of fine-tune (5, of few images more)")
    evaluate.add_argument("--config", help="configuration of a Hub dataset")
    evaluate.add_argument("--revision", help="branch, tag or commit of a Hub dataset")
    evaluate.add_argument("--image_column", help="found by its type if missing")
    evaluate.add_argument("--label_column", help="found by its type if missing; of masks to be named")
    evaluate.add_argument("--streaming", action="store_true", help="read while embedding; not cached")
    evaluate.add_argument("--batch_size", type=int, default=256, help="images a forward pass (256)")
    evaluate.add_argument("--cache_dir", metavar="FOLDER", help="where embeddings are kept (in HF_HOME)")
    evaluate.add_argument("--no_cache", action="store_true", help="keep none")
    evaluate.add_argument(
        "--out", metavar="FILE", help="figures, intervals, and what they were measured on and with, as JSON"
    )
    evaluate.set_defaults(command=_evaluate)


def _add_embed(embed: argparse.ArgumentParser) -> None:
    embed.add_argument("dataset", help="digits, a Hub dataset id, a folder or Parquet files")
    embed.add_argument("--model", required=True, help="run folder, encoder folder or Hub id of any vision encoder")
    embed.add_argument("--out", required=True, help="file to write, .parquet; the same command after a kill goes on")
    embed.add_argument("--pooling", default="auto", help="auto (as trained), pooler, cls, patches (their mean)")
    embed.add_argument(
        "--layers", type=int, default=1, help="so many of the last blocks joined, of cls or patches (1)"
    )
    embed.add_argument("--dtype", default="float32", help="float32 or float16, of what is stored")
    embed.add_argument("--split", default="train", help="a slice like train[:1000] is read unstreamed (train)")
    embed.add_argument("--config", help="configuration of a Hub dataset")
    embed.add_argument("--revision", help="branch, tag or commit of a Hub dataset")
    embed.add_argument("--data_files", nargs="+", help="which files, as paths or globs")
    embed.add_argument("--image_column", help="found by its type if missing")
    embed.add_argument("--label_column", help="found by its type if missing")
    embed.add_argument("--streaming", action=argparse.BooleanOptionalAction, help="on, but for slices of a split")
    embed.add_argument("--batch_size", type=int, default=64, help="images a forward pass (64)")
    embed.add_argument("--device", help="the accelerator if there is one")
    embed.add_argument("--bf16", action="store_true", help="forward passes under autocast")
    embed.add_argument("--overwrite", action="store_true", help="replace OUT, delete parts of other settings")
    embed.set_defaults(command=_embed)
