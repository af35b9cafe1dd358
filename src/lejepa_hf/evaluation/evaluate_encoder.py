"""How good is an encoder: all protocols, and those on frozen embeddings beside two baselines."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ..data.sources import ImageSource
from ..model.architecture import num_channels
from ..model.backbone import build_backbone
from ..model.loading_errors import explained, refuse_unfilled
from ..model.native_class import as_native_class
from ..system.devices import default_device
from ..system.distributed import is_first_rank
from .dataset_presets import ignored_labels
from .embeddings.extraction import LabelledEmbeddings, extract_embeddings, raw_pixels
from .feature_extractor import FeatureExtractor
from .intervals import INTERVAL, is_spread
from .labelled_sources import check_pair, labelled_sources, labels_of
from .protocols.few_shot import check_shots
from .protocols.registry import BY_ALL_PROCESSES, ON_EMBEDDINGS, ON_IMAGES, check_protocols, check_source

logger = logging.getLogger("lejepa_hf")

ENCODER, AVERAGED = "LeJEPA encoder", "averaged encoder"
UNTRAINED, PIXELS = "same encoder, untrained", "raw pixels"


def evaluate_encoder(
    encoder: str | Path | tuple,
    dataset: str | tuple[ImageSource, ImageSource],
    protocols: Sequence[str] = ("linear", "knn"),
    train_split: str | None = None,
    eval_split: str | None = None,
    batch_size: int = 256,
    shots: Sequence[int | str] | None = None,
    cache_dir: str | Path | None = None,
    resolution: int | None = None,
    ignore_labels: Sequence[int] | None = None,
    learning_rate: float | None = None,
    num_epochs: int | None = None,
    **source,
) -> dict[str, float]:
    """
    Evaluate an encoder on a labelled dataset.

    With several processes all of them embed images, if a protocol needs embeddings, and fine-tune; the other protocols
    run on the first one. The others return an empty `dict`.

    Args:
        encoder (`str`, `Path`, or a pair of model and processor): Folder or Hub id of any vision model that
            `AutoModel` loads, with its processor; or both loaded, as by [`load_encoder`].
        dataset (`str` or a pair of [`ImageSource`]): A preset of [`~evaluation.dataset_presets`], a name for
            [`~data.sources.load_source`], or train and held-out sources.
        protocols (`Sequence[str]`, *optional*, defaults to `("linear", "knn")`): Of `linear`, `knn`, `few-shot`,
            `logistic`, `retrieval`, `fine-tune`; `segmentation`, which needs masks.
        train_split (`str`, *optional*): Fits the protocols. That of the preset if missing, otherwise `train`.
        eval_split (`str`, *optional*): Measures them. That of the preset if missing, otherwise `test`.
        batch_size (`int`, *optional*, defaults to 256): Images a forward.
        shots (`Sequence[int | str]`, *optional*): Of `few-shot`, see [`few_shot`].
        cache_dir (`str` or `Path`, *optional*): Where embeddings are kept for the next call, see
            [`extract_embeddings`].
        resolution (`int`, *optional*): Of `segmentation`, see [`segmentation`].
        ignore_labels (`Sequence[int]`, *optional*): Of `segmentation`: values of masks that say nothing. Those of the
            preset if missing, otherwise 255.
        learning_rate (`float`, *optional*): Of `fine-tune`, see [`fine_tune`].
        num_epochs (`int`, *optional*): Of `fine-tune`, too.
        **source: Of [`~data.sources.load_source`]: `config`, `image_column`, `label_column` and so on.

    Returns:
        `dict[str, float]`: e.g. `eval_linear_top1`, `eval_knn_top1`, `eval_5shot_top1`, in [0, 1], and their 95 %
        intervals, `eval_linear_top1_ci95` and so on.

    Raises:
        ValueError: Before any work on images, if a protocol is unknown, the dataset cannot be used for it or the
            encoder cannot be loaded.
    """
    check_protocols(protocols)
    positive = {"resolution": resolution, "learning_rate": learning_rate, "num_epochs": num_epochs}
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be more than 0, got {value}.")
    pair = dataset if isinstance(dataset, tuple) else labelled_sources(dataset, train_split, eval_split, **source)
    for one in pair:
        check_source(protocols, one)
    check_pair(*pair)
    if shots is not None and "few-shot" in protocols and (labels := labels_of(pair[0])) is not None:
        check_shots(shots, labels)
    if ignore_labels is None:
        ignore_labels = ignored_labels(dataset)
    model, processor = encoder if isinstance(encoder, tuple) else load_encoder(encoder)
    extractor = FeatureExtractor(model, processor)
    extractor.try_one()
    for one in pair:
        extractor.try_images(one)
    on_embeddings = [protocol for protocol in protocols if protocol in ON_EMBEDDINGS]
    if on_embeddings:
        train, test = (extract_embeddings(model, processor, one, batch_size, cache_dir) for one in pair)
    settings = {
        "segmentation": {"resolution": resolution, "ignore_labels": ignore_labels},
        "fine-tune": {"num_epochs": num_epochs} | ({"learning_rates": [learning_rate]} if learning_rate else {}),
    }
    on_images = [protocol for protocol in protocols if protocol in ON_IMAGES]
    measured = {}
    # Those of all processes first: the others should not wait for what the first one does alone.
    for protocol in sorted(on_images, key=lambda protocol: protocol not in BY_ALL_PROCESSES):
        if protocol in BY_ALL_PROCESSES or is_first_rank():
            found = ON_IMAGES[protocol](model, processor, *pair, **settings[protocol])
            _tell(protocol, found)
            measured |= found
    if not is_first_rank():
        return {}
    return (run_protocols(train, test, on_embeddings, shots) if on_embeddings else {}) | measured


def evaluate_with_baselines(
    encoder: str | Path,
    train: ImageSource,
    test: ImageSource,
    protocols: Sequence[str],
    averaged: str | Path | None = None,
) -> tuple[dict[str, dict[str, float]], tuple[LabelledEmbeddings, LabelledEmbeddings]]:
    """
    The encoder, the same encoder untrained, and raw pixels, by the same protocols on the same images.

    Args:
        encoder (`str` or `Path`): Folder of an exported encoder.
        train ([`ImageSource`]): Fits the protocols.
        test ([`ImageSource`]): Measures them.
        protocols (`Sequence[str]`): Of those on embeddings: `linear`, `knn`, `few-shot`, `logistic`, `retrieval`.
        averaged (`str` or `Path`, *optional*): Folder of the same encoder with averaged weights, a row more.

    Returns:
        `tuple`: results by row name, and the encoder's embeddings of both sources, for pictures.
    """
    import torch

    check_protocols(protocols, at_the_end_of_training=True)
    model, processor = load_encoder(encoder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Built and pooled as in training: `AutoModel.from_config` would put a random pooler behind the first token.
        untrained = as_native_class(build_backbone(model.config), model.config.embedding_pooling).to(model.device)
    channels, pixel_range = num_channels(model.config), getattr(processor, "pixel_range", None)
    embedded = {ENCODER: [extract_embeddings(model, processor, source) for source in (train, test)]}
    if averaged is not None:
        embedded[AVERAGED] = [extract_embeddings(*load_encoder(averaged), source) for source in (train, test)]
    embedded |= {
        UNTRAINED: [extract_embeddings(untrained, processor, source) for source in (train, test)],
        PIXELS: [raw_pixels(source, channels, pixel_range) for source in (train, test)],
    }
    rows = {name: run_protocols(*pair, protocols, name=name) for name, pair in embedded.items()}
    return rows, tuple(embedded[ENCODER])


def run_protocols(
    train: LabelledEmbeddings,
    test: LabelledEmbeddings,
    protocols: Sequence[str],
    shots: Sequence[int | str] | None = None,
    name: str = "",
) -> dict[str, float]:
    """Results of protocols on embeddings in one dict; `shots` are those of `few-shot`, `name` is told with them."""
    results = {}
    for protocol in protocols:
        settings = {"shots": shots} if protocol == "few-shot" else {}
        found = ON_EMBEDDINGS[protocol](train, test, **settings)
        _tell(f"{name}, {protocol}" if name else protocol, found)
        results |= found
    return results


def _tell(what: str, results: dict[str, float]) -> None:
    """At once: what ends before the last protocol has not measured in vain."""
    if is_first_rank():
        figures = (f"{_shown(name)} {100 * value:.1f}" for name, value in results.items() if not is_spread(name))
        logger.info(f"{what}: {', '.join(figures)}")


def _shown(name: str) -> str:
    return name.removeprefix("eval_").replace("_", " ")


def load_encoder(encoder: str | Path, device: str | None = None):
    """
    An encoder folder, a run folder or a Hub id -> model, in fp32, and processor.

    A pooler whose weights are not in the checkpoint would be drawn at random: it is left out, and the class token is
    the embedding.

    Args:
        encoder (`str` or `Path`): Any vision model that `AutoModel` loads, or a run with one in `encoder/`.
        device (`str`, *optional*): The accelerator if there is one, or the CPU.

    Raises:
        ValueError: If one of them cannot be found, read with this login or stored, weights are missing, or the device
            is not there.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModel

    device = device or default_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    folder = find_encoder(encoder)
    with explained("encoder", encoder):
        # Not as it was stored: half precision would embed and be fine-tuned with other errors than its neighbours.
        model, loaded = AutoModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(folder)
    refuse_unfilled("encoder", encoder, model.config.model_type, loaded, may_miss="pooler.")
    if loaded["missing_keys"]:
        model.pooler, model.config.embedding_pooling = None, "cls"
    return model.eval().to(device), processor


def find_encoder(encoder: str | Path) -> str | Path:
    """Where a model is loaded from: of a run folder its `encoder/`, anything else as it is."""
    inside = Path(encoder) / "encoder"
    is_run = (inside / "config.json").is_file() and not (Path(encoder) / "config.json").is_file()
    return inside if is_run else encoder


def format_table(results: dict[str, dict[str, float]]) -> str:
    """
    Results as a Markdown table in percent, a column an encoder, intervals behind their figure.

    Args:
        results (`dict[str, dict[str, float]]`): Results by name of the column.

    Returns:
        `str`: One header, one line a metric.
    """
    names = list(next(iter(results.values())))
    is_frozen = not any(name.startswith("eval_finetune") for name in names)
    rows = [["frozen, held out, in %" if is_frozen else "held out, in %", *results]]
    for name in names:
        if is_spread(name):
            continue
        cells = [
            f"{100 * values[name]:.1f}"
            + (f" ± {100 * values[name + INTERVAL]:.1f}" if name + INTERVAL in values else "")
            for values in results.values()
        ]
        rows.append([_shown(name), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
