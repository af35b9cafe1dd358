"""Commands about encoders: evaluate, embed, demo, export, push."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

AddArgument = Callable[..., argparse.Action]  # `add_argument` of a command's parser

_DATA_FILES = "files of a Hub dataset, or of --dataset csv, json, parquet or webdataset, as paths or globs"


def _add_cut(add: AddArgument) -> None:
    add("--pages", choices=("channels", "images"), default="channels", help="what the pages of a TIFF are (channels)")
    add(
        "--slice_axis", type=int, metavar="N", help="axis of volumes along which each slice is an image, 0, 1 or 2 (2)"
    )
    add("--window_size", type=int, metavar="PIXELS", help="cut each file of a folder into windows of this side")


def _cut(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("pages", "slice_axis", "window_size")}


def _add_evaluate(add: AddArgument) -> None:
    add("encoder", nargs="+", help="folder or Hub id of any vision encoder; each is a column of the table")
    add("--dataset", required=True, help="a preset (digits, imagenet-1k, food101, ...), a Hub id, a folder or files")
    add("--data_files", nargs="+", help=_DATA_FILES)
    add(
        "--protocol", nargs="+",
        help="any of linear, linear-dinov2, attentive, knn, few-shot, logistic, retrieval, fine-tune, "
        "fine-tune-long; segmentation and segmentation-dinov2 for masks, ridge for numbers (linear knn; linear for "
        "multi-label)",
    )  # fmt: skip
    add(
        "--metric", nargs="+", metavar="NAME",
        help="figures of classification, any of top1, top5, mean-per-class (balanced accuracy), macro-f1, auroc (one "
        "class against the rest); top1 top5, and all of them if the classes of the test images are unbalanced",
    )  # fmt: skip
    add("--train_split", help="split to fit the protocols on (the preset's, or train)")
    add(
        "--eval_split",
        help="split to evaluate the encoder on, or a share of train_split: 10%% (the preset's, or test)",
    )
    add("--group_column", help="column, or level of folders, of groups that a share or folds may not part")
    add("--folds", type=int, metavar="K", help="K folds of train_split instead of eval_split, each measured once")
    add(
        "--shots", nargs="+", metavar="K",
        help="few-shot: images of each class, or a share of them like 1%% (1 2 5 10 100 all)",
    )  # fmt: skip
    add("--resolution", type=int, help="segmentation: side of the images in pixels (the processor's)")
    add("--crop_size", type=int, help="segmentation-dinov2: side of crops and windows in pixels (512)")
    add(
        "--ignore_labels", nargs="+", type=int, metavar="N",
        help="segmentation: labels in masks that are not a class (the preset's, or 255)",
    )  # fmt: skip
    add("--learning_rate", type=float, help="fine-tune: learning rate, instead of the best of four")
    add(
        "--num_epochs",
        type=int,
        help="passes over the images: fine-tune 5, fine-tune-long 100, linear-dinov2, attentive and "
        "segmentation-dinov2 10; more for few",
    )
    add("--config", "--dataset_config", help="configuration of a Hub dataset")
    add("--revision", "--dataset_revision", help="branch, tag or commit of a Hub dataset")
    add("--image_column", help="column of the images; found by its type if missing")
    add("--label_column", help="column of the labels, or several of 0 and 1: a,b,c; found by type, except masks")
    add("--label_kind", help="class, multi-label (texts like a|b) or number, instead of what the type says")
    add("--max_image_pixels", type=int, metavar="N", help="width x height of the largest image to decode (89478485)")
    _add_cut(add)
    add("--streaming", action="store_true", help="read images while embedding them; nothing is cached")
    add("--batch_size", type=int, default=256, help="images per forward pass (256)")
    add("--cache_dir", metavar="FOLDER", help="folder for the cache of embeddings (in HF_HOME)")
    add("--no_cache", action="store_true", help="do not cache embeddings")
    add("--out", metavar="FILE", help="JSON file for metrics, intervals, data and settings")


def _evaluate(options: argparse.Namespace) -> str | None:
    from ..data.label_kinds import named_columns
    from ..evaluation.compare_encoders import compare_encoders, format_conditions
    from ..evaluation.dataset_presets import usual_settings
    from ..evaluation.encoder_loading import find_encoder
    from ..evaluation.labelled_sources import labelled_sources
    from ..evaluation.paired_differences import format_differences
    from ..evaluation.protocols.registry import make_protocols, with_usual
    from ..evaluation.protocols.served_labels import USUAL, usual_protocols
    from ..evaluation.table import format_table
    from ..system.distributed import is_first_rank, join_processes

    names = ("resolution", "crop_size", "ignore_labels", "learning_rate", "num_epochs")
    given = {name: getattr(options, name) for name in names}
    given |= {"shots": _shots(options), "metrics": options.metric}
    make_protocols(options.protocol or USUAL["class"], given)  # refuses what does not fit, before the processes meet
    for encoder in options.encoder:
        find_encoder(encoder)  # before any data is read
    join_processes()
    if options.folds is not None:
        return _evaluate_folds(options, given)
    splits = labelled_sources(
        options.dataset, options.train_split, options.eval_split, options.group_column,
        config=options.config, revision=options.revision, data_files=options.data_files,
        image_column=options.image_column, label_column=named_columns(options.label_column),
        label_kind=options.label_kind, streaming=options.streaming,
        max_image_pixels=options.max_image_pixels, **_cut(options),
    )  # fmt: skip
    protocols = usual_protocols(splits[1]) if options.protocol is None else options.protocol
    settings = with_usual(given, usual_settings(options.dataset), protocols)
    record = compare_encoders(
        options.encoder, splits, protocols, options.out, batch_size=options.batch_size,
        cache_dir=_cache(options), **settings,
    )  # fmt: skip
    if not is_first_rank():
        return None
    tables = [format_table({name: found["results"] for name, found in record["encoders"].items()})]
    if any(record["differences"].values()):
        tables.append(format_differences(next(iter(record["encoders"])), record["differences"]))
    return "\n\n".join([*tables, format_conditions(record)])


def _shots(options: argparse.Namespace) -> list[int | str] | None:
    return [int(k) if k.isdecimal() else k for k in options.shots] if options.shots else None


def _cache(options: argparse.Namespace) -> Path | None:
    """The folder of embeddings that the command keeps."""
    from huggingface_hub.constants import HF_HOME

    return None if options.no_cache else Path(options.cache_dir or Path(HF_HOME) / "lejepa_hf" / "embeddings")


def _add_transfer(add: AddArgument) -> None:
    add("encoder", nargs="+", help="folder or Hub id of any vision encoder; each has rows in the table")
    add("--out", required=True, metavar="FOLDER", help="records and table.md; after a kill the same command goes on")
    add(
        "--datasets", nargs="+", metavar="NAME",
        help="presets, Hub ids or folders (dtd, fgvc-aircraft, stanford-cars, cifar10, cifar100, flowers102, food101, "
        "oxford-pets)",
    )  # fmt: skip
    add("--shots", nargs="+", metavar="K", help="labelled images of each class; all is the linear probe (1 10 all)")
    add("--batch_size", type=int, default=256, help="images per forward pass (256)")
    add("--cache_dir", metavar="FOLDER", help="folder for the cache of embeddings (in HF_HOME)")
    add("--no_cache", action="store_true", help="do not cache embeddings")


def _transfer(options: argparse.Namespace) -> str | None:
    from ..evaluation.transfer import DATASETS, SHOTS, TransferTable
    from ..system.distributed import is_first_rank, join_processes

    join_processes()
    table = TransferTable(
        options.out, options.encoder, options.datasets or DATASETS, _shots(options) or SHOTS,
        batch_size=options.batch_size, cache_dir=_cache(options),
    )  # fmt: skip
    failed = table.run()
    options.status = 1 if failed else 0
    if not is_first_rank():
        return None
    if failed:
        sys.stderr.write("".join(f"not evaluated: {line}\n" for line in failed))
    return table.table()


def _evaluate_folds(options: argparse.Namespace, settings: dict[str, object]) -> str | None:
    import json

    from ..data.label_kinds import named_columns
    from ..evaluation.compare_encoders import check_out
    from ..evaluation.dataset_presets import usual_settings
    from ..evaluation.encoder_loading import load_encoder
    from ..evaluation.folds import fold_record, make_folds
    from ..evaluation.labelled_sources import labelled_source
    from ..evaluation.protocols.registry import with_usual
    from ..evaluation.protocols.served_labels import usual_protocols
    from ..evaluation.table import format_table
    from ..system.distributed import is_first_rank
    from ..system.durable_files import write_text
    from ..system.installed_package import package_versions

    if options.eval_split is not None:
        raise ValueError(
            f"`--folds` {options.folds} measures on the images of `--train_split`: leave `--eval_split` out, which is "
            f"{options.eval_split!r}."
        )
    if options.out is not None:
        check_out(Path(options.out))
    source = labelled_source(
        options.dataset, options.train_split, config=options.config, revision=options.revision,
        data_files=options.data_files, image_column=options.image_column,
        label_column=named_columns(options.label_column),
        label_kind=options.label_kind, streaming=options.streaming,
        max_image_pixels=options.max_image_pixels, **_cut(options),
    )  # fmt: skip
    protocols = usual_protocols(source) if options.protocol is None else options.protocol
    settings = with_usual(settings, usual_settings(options.dataset), protocols)
    folds = make_folds(source, options.folds, protocols, options.group_column, settings)
    results = {
        name: folds.measure(load_encoder(name), options.batch_size, _cache(options)) for name in options.encoder
    }
    if not is_first_rank():
        return None
    if options.out is not None:
        record = fold_record(folds, results, group_column=options.group_column, versions=package_versions())
        write_text(Path(options.out), json.dumps(record, indent=2) + "\n")
    return f"{format_table(results)}\n\n{source.name}: {folds}; ±: 95 % interval of the mean over folds"


def _add_embed(add: AddArgument) -> None:
    add("dataset", help="digits, a Hub dataset id, a folder or Parquet files")
    add("--model", required=True, help="run folder, encoder folder or Hub id of any vision encoder")
    add("--out", required=True, help="Parquet file to write; after an interruption the same command continues")
    add(
        "--pooling",
        default="auto",
        help="auto (as trained), pooler, cls, or patches for the mean of patch tokens (auto)",
    )
    add("--layers", type=int, default=1, help="number of last layers whose cls or patches are concatenated (1)")
    add("--dtype", default="float32", help="type of the stored numbers, float32 or float16 (float32)")
    add("--split", default="train", help="split to embed; a slice like train[:1000] is read without streaming (train)")
    add("--config", "--dataset_config", help="configuration of a Hub dataset")
    add("--revision", "--dataset_revision", help="branch, tag or commit of a Hub dataset")
    add("--data_files", nargs="+", help=_DATA_FILES)
    add("--image_column", help="column of the images; found by its type if missing")
    add("--label_column", help="column of the labels; found by its type if missing")
    add("--columns", nargs="+", default=[], metavar="NAME", help="further columns to copy, such as ids")
    add("--max_image_pixels", type=int, metavar="N", help="width x height of the largest image to decode (89478485)")
    _add_cut(add)
    add("--streaming", action=argparse.BooleanOptionalAction, help="read while embedding (on, except for slices)")
    add("--batch_size", type=int, default=64, help="images per forward pass (64)")
    add("--device", help="device of the model; the accelerator if there is one")
    add("--bf16", action="store_true", help="run forward passes under bf16 autocast")
    add("--overwrite", action="store_true", help="replace OUT, and delete parts that other settings left")


def _embed(options: argparse.Namespace) -> str:
    from ..data.errors import DataError
    from ..evaluation.embeddings.embed_images import Features, embed_images

    streaming = "[" not in options.split if options.streaming is None else options.streaming
    embedded = embed_images(
        options.model, options.dataset, options.out,
        Features(options.pooling, options.layers, options.dtype, options.bf16),
        options.batch_size, options.device, options.overwrite, columns=options.columns,
        split=options.split, config=options.config, streaming=streaming, image_column=options.image_column,
        label_column=options.label_column, revision=options.revision, data_files=options.data_files,
        max_image_pixels=options.max_image_pixels, **_cut(options),
    )  # fmt: skip
    if embedded.has_many_broken:
        raise DataError(
            f"{embedded.out} is written without {embedded.num_broken:,} broken images (the log names the first ones) "
            f"and holds {embedded.num_images:,}. Repair the broken images, then repeat the command with `--overwrite`."
        )
    size, speed = f"{embedded.num_images} embeddings of {embedded.dim} numbers", embedded.images_per_second
    return f"{embedded.out}: {size}, {speed:.1f} images/s"


def _add_demo(add: AddArgument) -> None:
    add("encoder", help="run folder, encoder folder or Hub id of any vision encoder")
    add("--dataset", help="digits, a Hub dataset id or a folder: examples, and images to search for neighbours")
    add("--split", default="train", help="split of the dataset to use (train)")
    add("--images", type=int, default=2000, help="largest number of images to search for neighbours (2000)")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1, this machine only)")
    add("--port", type=int, help="port to listen on; the first free one from 7860 if missing")
    add("--push", metavar="USER/NAME", help="push the page to the Hub as a Space instead of serving it")
    add("--private", action="store_true", default=None, help="make a new Space private")


def _demo(options: argparse.Namespace) -> str | None:
    try:
        return _serve_or_push(options)
    except KeyboardInterrupt:  # while the page is prepared; once it is there, it handles Ctrl+C itself
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        # `sys.exit` would wait for threads that download, and Python repeats the signal if an import was interrupted.
        os._exit(128 + signal.SIGINT)


def _serve_or_push(options: argparse.Namespace) -> str | None:
    from ..hub.demo.page import check_gradio, serve
    from ..hub.demo.settings import DemoSettings

    check_gradio()
    settings = DemoSettings(options.encoder, options.dataset, options.split, options.images)
    if options.push is None:
        if options.private:
            raise ValueError("`--private` makes a Space private: it needs `--push USER/NAME`.")
        serve(settings, options.host, options.port)
        return None
    from ..hub.demo.space import push_space

    return push_space(settings, options.push, options.private)


def _add_export(add: AddArgument) -> None:
    add("run", help="run folder, or one of its checkpoints")
    add("folder", nargs="?", help="folder to write (RUN/encoder, or RUN/encoder-N for checkpoint-N)")
    add("--averaged", action="store_true", help="export the moving average of a run with `ema_decay`")
    add("--onnx", action="store_true", help="also write model.onnx, beside the weights")


def _export(options: argparse.Namespace) -> Path:
    from ..hub.export import export_encoder

    encoder = export_encoder(options.run, options.folder, averaged=options.averaged)
    if not options.onnx:
        return encoder
    from ..hub.onnx_export import export_onnx

    sys.stdout.write(f"{encoder}\n")  # which exists even if the next export fails
    return export_onnx(encoder)


def _add_push(add: AddArgument) -> None:
    add("run", help="folder of a finished run, or an exported encoder")
    add("repo_id", help="repository USER/NAME; after a failure the same command continues")
    add("--private", action="store_true", default=None, help="make a new repository private")
    add("--revision", metavar="BRANCH", help="branch to write to, created if missing (main)")
    add(
        "--with_pictures", action="store_true",
        help="also publish pictures that show images of this machine; of images on the Hub they always are",
    )  # fmt: skip


def _push(options: argparse.Namespace) -> str:
    from ..hub.push import push_run

    return push_run(
        options.run, options.repo_id, options.private, options.revision, with_pictures=options.with_pictures
    )


# Name -> what `lejepa --help` says, what adds its arguments, and what runs it and returns what to print.
COMMANDS = {
    "evaluate": ("measure how good encoders are, on labelled images", _add_evaluate, _evaluate),
    "transfer": ("the paper's table: encoders on eight datasets, few labels and all", _add_transfer, _transfer),
    "embed": ("a folder or dataset -> a Parquet file of embeddings", _add_embed, _embed),
    "demo": ("a page in the browser to look at an encoder", _add_demo, _demo),
    "export": ("a run or checkpoint -> an encoder folder for AutoModel", _add_export, _export),
    "push": ("a finished run -> encoder, card and pictures on the Hub", _add_push, _push),
}
