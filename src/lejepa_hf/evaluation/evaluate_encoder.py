"""How good is an encoder: protocols on frozen embeddings, beside two baselines."""

from collections.abc import Sequence
from pathlib import Path

from ..backbone.building import build_backbone
from ..backbone.facts import num_channels
from ..backbone.standalone import as_standalone
from ..data.sources import ImageSource, load_source
from ..loading_errors import explained
from .embedding_extraction import LabelledEmbeddings, extract_embeddings, raw_pixels
from .few_shot import few_shot
from .knn import knn
from .linear_probe import linear_probe

PROTOCOLS = {"linear": linear_probe, "knn": knn, "few-shot": few_shot}
ENCODER, AVERAGED = "LeJEPA encoder", "averaged encoder"
UNTRAINED, PIXELS = "same encoder, untrained", "raw pixels"


def evaluate_encoder(
    encoder: str | Path,
    dataset: str | tuple[ImageSource, ImageSource],
    protocols: Sequence[str] = ("linear", "knn"),
    train_split: str = "train",
    eval_split: str = "test",
    batch_size: int = 256,
) -> dict[str, float]:
    """
    Evaluate a frozen encoder on a labelled dataset.

    Args:
        encoder (`str` or `Path`): Folder or Hub id of any vision model that `AutoModel` loads, with its processor.
        dataset (`str` or a pair of [`ImageSource`]): A name for [`~data.sources.load_source`], or train and held-out
            sources.
        protocols (`Sequence[str]`, *optional*, defaults to `("linear", "knn")`): Of `linear`, `knn`, `few-shot`.
        train_split (`str`, *optional*, defaults to `"train"`): Fits the protocols.
        eval_split (`str`, *optional*, defaults to `"test"`): Measures them.
        batch_size (`int`, *optional*, defaults to 256): Images a forward.

    Returns:
        `dict[str, float]`: e.g. `eval_linear_top1`, `eval_knn_top1`, `eval_5shot_top1`, in [0, 1].

    Raises:
        ValueError: If a protocol is unknown, the dataset has no labels or the encoder cannot be loaded.
    """
    check_protocols(protocols)
    train, test = _sources(dataset, train_split, eval_split)
    model, processor = load_encoder(encoder)
    return run_protocols(
        extract_embeddings(model, processor, train, batch_size),
        extract_embeddings(model, processor, test, batch_size),
        protocols,
    )


def evaluate_with_baselines(
    encoder: str | Path,
    train: ImageSource,
    test: ImageSource,
    protocols: Sequence[str],
    averaged: str | Path | None = None,
) -> tuple[dict[str, dict[str, float]], LabelledEmbeddings]:
    """
    The encoder, the same encoder untrained, and raw pixels, by the same protocols on the same images.

    Args:
        encoder (`str` or `Path`): Folder of an exported encoder.
        train ([`ImageSource`]): Fits the protocols.
        test ([`ImageSource`]): Measures them.
        protocols (`Sequence[str]`): Of `linear`, `knn`, `few-shot`.
        averaged (`str` or `Path`, *optional*): Folder of the same encoder with averaged weights, a row more.

    Returns:
        `tuple`: results by row name, and the held-out embeddings of the encoder, for pictures.
    """
    import torch

    check_protocols(protocols)
    model, processor = load_encoder(encoder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Built and pooled as in training: `AutoModel.from_config` would put a random pooler behind the first token.
        untrained = as_standalone(build_backbone(model.config), model.config.embedding_pooling).to(model.device)
    channels, pixel_range = num_channels(model.config), getattr(processor, "pixel_range", None)
    embedded = {ENCODER: [extract_embeddings(model, processor, source) for source in (train, test)]}
    if averaged is not None:
        embedded[AVERAGED] = [extract_embeddings(*load_encoder(averaged), source) for source in (train, test)]
    embedded |= {
        UNTRAINED: [extract_embeddings(untrained, processor, source) for source in (train, test)],
        PIXELS: [raw_pixels(source, channels, pixel_range) for source in (train, test)],
    }
    return {name: run_protocols(*pair, protocols) for name, pair in embedded.items()}, embedded[ENCODER][1]


def run_protocols(train: LabelledEmbeddings, test: LabelledEmbeddings, protocols: Sequence[str]) -> dict[str, float]:
    """Results of all protocols in one dict."""
    return {name: value for protocol in protocols for name, value in PROTOCOLS[protocol](train, test).items()}


def check_protocols(protocols: Sequence[str]) -> None:
    """
    Raises:
        ValueError: If a protocol is unknown.
    """
    unknown = [protocol for protocol in protocols if protocol not in PROTOCOLS]
    if unknown:
        raise ValueError(f"`protocols` {', '.join(unknown)} unknown; known are {', '.join(PROTOCOLS)}.")


def load_encoder(encoder: str | Path, device: str | None = None):
    """
    An encoder folder, a run folder or a Hub id -> model and processor.

    A pooler whose weights are not in the checkpoint would be drawn at random: it is left out, and the class token is
    the embedding.

    Args:
        encoder (`str` or `Path`): Any vision model that `AutoModel` loads, or a run with one in `encoder/`.
        device (`str`, *optional*): The accelerator if there is one, or the CPU.

    Raises:
        ValueError: If one of them cannot be found, read with this login or stored, or the device is not there.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModel

    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    folder = find_encoder(encoder)
    with explained("encoder", encoder):
        model, loaded = AutoModel.from_pretrained(folder, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(folder)
    if any(key.startswith("pooler.") for key in loaded["missing_keys"]):
        model.pooler, model.config.embedding_pooling = None, "cls"
    return model.eval().to(device), processor


def find_encoder(encoder: str | Path) -> str | Path:
    """Where a model is loaded from: of a run folder its `encoder/`, anything else as it is."""
    inside = Path(encoder) / "encoder"
    is_run = (inside / "config.json").is_file() and not (Path(encoder) / "config.json").is_file()
    return inside if is_run else encoder


def _sources(dataset, train_split: str, eval_split: str) -> tuple[ImageSource, ImageSource]:
    if isinstance(dataset, str):
        dataset = load_source(dataset, train_split), load_source(dataset, eval_split)
    for source in dataset:
        if source.label_column is None:
            raise ValueError(f"`dataset` {source.name!r} has no labels; set `label_column` or use a labelled one.")
    return dataset


def format_table(results: dict[str, dict[str, float]]) -> str:
    """
    Results as a Markdown table in percent, spreads behind their mean.

    Args:
        results (`dict[str, dict[str, float]]`): Results by row name.

    Returns:
        `str`: One header, one line a row.
    """
    names = [name for name in next(iter(results.values())) if not name.endswith("_std")]
    header = ["frozen, held-out top-1 in %", *(name.removeprefix("eval_").replace("_", " ") for name in names)]
    rows = [header, ["---"] * len(header)]
    for row_name, values in results.items():
        cells = [
            f"{100 * values[name]:.1f}"
            + (f" ± {100 * values[spread]:.1f}" if (spread := f"{name}_std") in values else "")
            for name in names
        ]
        rows.append([row_name, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "| "
        + " | ".join(
            (cell if cell != "---" else "-" * width).ljust(width) for cell, width in zip(row, widths, strict=True)
        )
        + " |"
        for row in rows
    )
