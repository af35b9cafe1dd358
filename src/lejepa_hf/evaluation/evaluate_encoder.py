"""evaluate_encoder: the figures of an encoder by a choice of protocols."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ..data.sources import ImageSource, load_source
from ..system.distributed import is_first_rank
from .baselines import ENCODER, Embed, table_columns
from .dataset_presets import usual_settings
from .embeddings.extraction import LabelledEmbeddings, extract_embeddings
from .encoder_loading import LoadedEncoder, load_encoder
from .feature_extractor import FeatureExtractor
from .figures import Figures
from .intervals import is_spread
from .label_by_label import embeddings_of_columns, named_by_column, pairs_of_columns
from .labelled_sources import check_held_out_classes, check_pair, count_shared, labelled_sources
from .protocols.protocol import OnEmbeddings, OnImages, Protocol
from .protocols.registry import check_protocols, make_protocols, with_usual
from .protocols.served_labels import check_served, usual_protocols
from .table import figure_text, format_table, readable_name

__all__ = ["evaluate_encoder", "evaluate_with_baselines", "format_table", "measure", "run_protocols"]

logger = logging.getLogger("lejepa_hf")


def evaluate_encoder(
    encoder: str | Path | LoadedEncoder,
    dataset: str | tuple[ImageSource, ImageSource],
    protocols: Sequence[str | Protocol] | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    batch_size: int = 256,
    cache_dir: str | Path | None = None,
    group_column: str | None = None,
    **settings: Any,  # noqa: ANN401
) -> dict[str, float]:
    """
    Evaluate an encoder on a labelled dataset.

    With several processes all of them embed images, if a protocol needs embeddings, and fine-tune; the other protocols
    run in the first process. The others return an empty `dict`.

    Args:
        encoder (`str`, `Path`, or a pair of model and processor): As for [`load_encoder`], or what it returns.
        dataset (`str` or a pair of [`ImageSource`]): A preset of [`~evaluation.dataset_presets`], a name for
            [`~data.sources.load_source`], or sources of training and held-out images.
        protocols (`Sequence[str | Protocol]`, *optional*): `linear`, `linear-dinov2`, `attentive`, `knn`, `few-shot`,
            `logistic`, `retrieval`, `fine-tune`, `fine-tune-long`; `ridge` for numbers; `segmentation` and
            `segmentation-dinov2`, which need masks. Or built protocols. If missing, `linear` and `knn`, for
            multi-label `linear`, for numbers `ridge`.
        train_split (`str`, *optional*): Split that fits the protocols; that of the preset, or `train`, if missing.
        eval_split (`str`, *optional*): Split that measures them, or a share of `train_split` such as `10%`; that of
            the preset, or `test`, if missing.
        batch_size (`int`, *optional*, defaults to 256): Images of a forward pass.
        cache_dir (`str` or `Path`, *optional*): Folder that keeps the embeddings, see [`extract_embeddings`].
        group_column (`str`, *optional*): Column of groups, such as patients, that a share may not part.
        settings: Settings of the protocols: `metrics` of those that guess classes, see
            [`~evaluation.classification.METRICS`], `shots` of `few-shot`, `learning_rate` and `num_epochs` of
            `fine-tune`, `resolution` and `ignore_labels` of `segmentation`, `crop_size` of `segmentation-dinov2`;
            those of a preset if missing. And arguments of [`~data.labelled_source.open_labelled`] for a name:
            `config`, `label_column` and so on.

    Returns:
        `dict[str, float]`: Figures in [0, 1], such as `eval_5shot_top1`, and their 95 % intervals, such as
        `eval_5shot_top1_ci95`. With several columns of classes the names hold the column: `eval_sex_5shot_top1`.

    Raises:
        ValueError: Before any work on images, if an argument cannot be used or the encoder cannot be loaded. Later, if
            embeddings are NaN or infinite.
    """
    known = {*inspect.signature(load_source).parameters, "label_kind"}
    source = {name: settings.pop(name) for name in known if name in settings}
    pair = dataset
    if not isinstance(pair, tuple):
        pair = labelled_sources(pair, train_split, eval_split, group_column, **source)
    protocols = usual_protocols(pair[1]) if protocols is None else protocols
    settings = with_usual(settings, usual_settings(dataset), protocols)
    chosen = checked_protocols(protocols, pair, settings)
    loaded = encoder if isinstance(encoder, tuple) else load_encoder(encoder)
    FeatureExtractor(*loaded).try_images(*pair)
    count_shared(pair[1], pair[0])
    *_, results = {}, *measure(loaded, pair, chosen, batch_size, cache_dir)
    return results


def checked_protocols(
    protocols: Sequence[str | Protocol], pair: tuple[ImageSource, ImageSource], settings: Mapping[str, object]
) -> list[Protocol]:
    """Build protocols with their settings; refuse what does not fit together, before any work on images."""
    chosen = make_protocols(protocols, settings)
    pairs = pairs_of_columns(pair).values()
    for of_column in pairs:
        check_served(chosen, of_column[1])
        for protocol in chosen:
            protocol.check(*of_column)
    check_pair(*pair)
    if _need_known_classes(chosen):
        for of_column in pairs:
            check_held_out_classes(*of_column)
    return chosen


def _need_known_classes(chosen: Sequence[Protocol]) -> bool:
    return any(protocol.labels == "classes" and protocol.needs_known_classes for protocol in chosen)


def measure(
    loaded: LoadedEncoder,
    pair: tuple[ImageSource, ImageSource],
    chosen: Sequence[Protocol],
    batch_size: int = 256,
    cache_dir: str | Path | None = None,
) -> Iterator[Figures]:
    """
    Measure what [`evaluate_encoder`] returns, by protocols from [`checked_protocols`]. After each of them the first
    process gets all figures so far, the others none.
    """
    pairs, embedded = pairs_of_columns(pair), dict[str, tuple[LabelledEmbeddings, LabelledEmbeddings]]()
    if any(isinstance(protocol, OnEmbeddings) for protocol in chosen):
        train, test = (extract_embeddings(*loaded, one, batch_size, cache_dir) for one in pair)
        embedded = _by_column((train, test), pair)
        if _need_known_classes(chosen) and is_first_rank():
            for column, parts in embedded.items():  # those of streams are only known now
                check_held_out_classes(*pairs[column], (parts[0].labels, parts[1].labels))
    of_embeddings, of_images = Figures(), Figures()
    # First what all processes share: they should not wait for what the first one does alone.
    tasks = sorted(product(chosen, pairs), key=lambda task: not task[0].shared_by_processes)
    for protocol, column in tasks:
        if protocol.shared_by_processes or is_first_rank():
            if isinstance(protocol, OnImages):
                title = f"{column}, {protocol.name}" if column else protocol.name
                found = _logged(title, protocol.run(*loaded, *pairs[column]))
                of_images |= named_by_column(found, column)
            else:
                of_embeddings |= named_by_column(run_protocols(*embedded[column], [protocol], column), column)
        yield of_embeddings | of_images if is_first_rank() else Figures()


def _by_column(
    embedded: tuple[LabelledEmbeddings, LabelledEmbeddings], pair: tuple[ImageSource, ImageSource]
) -> dict[str, tuple[LabelledEmbeddings, LabelledEmbeddings]]:
    train, test = (embeddings_of_columns(of_source, source) for of_source, source in zip(embedded, pair, strict=True))
    return {column: (train[column], test[column]) for column in test}


def measure_column(
    prepare: Callable[[], Embed], name: str, pair: tuple[ImageSource, ImageSource], protocols: Sequence[str]
) -> tuple[dict[str, float], tuple[LabelledEmbeddings, LabelledEmbeddings]]:
    """Figures of one column by protocols that need embeddings alone, and its embeddings of both sources."""
    check_protocols(protocols, at_the_end_of_training=True)
    embed = prepare()
    embedded = embed(pair[0]), embed(pair[1])
    if any(source.is_stream for source in pair) and _need_known_classes(make_protocols(protocols, {})):
        check_held_out_classes(*pair, (embedded[0].labels, embedded[1].labels))
    results = Figures()
    for column, parts in _by_column(embedded, pair).items():
        title = f"{name}, {column}" if column else name
        results |= named_by_column(run_protocols(*parts, protocols, title), column)
    return results, embedded


def evaluate_with_baselines(
    encoder: str | Path,
    train: ImageSource,
    test: ImageSource,
    protocols: Sequence[str],
    averaged: str | Path | None = None,
) -> tuple[dict[str, dict[str, float]], tuple[LabelledEmbeddings, LabelledEmbeddings]]:
    """
    Evaluate an encoder, the same encoder untrained, and raw pixels by the same protocols on the same images.

    Args:
        encoder (`str` or `Path`): Folder of an exported encoder.
        train ([`ImageSource`]): Images that fit the protocols.
        test ([`ImageSource`]): Images that measure them.
        protocols (`Sequence[str]`): Any of `linear`, `knn`, `few-shot`, `logistic`, `retrieval`.
        averaged (`str` or `Path`, *optional*): Folder of the same encoder with averaged weights, for another row.

    Returns:
        `tuple`: Results by row name, and the encoder's embeddings of both sources, for pictures.
    """
    columns = table_columns(encoder, averaged)
    own, embedded = measure_column(columns.pop(ENCODER), ENCODER, (train, test), protocols)
    others = {name: measure_column(make, name, (train, test), protocols)[0] for name, make in columns.items()}
    return {ENCODER: own, **others}, embedded


def run_protocols(
    train: LabelledEmbeddings, test: LabelledEmbeddings, protocols: Sequence[str | Protocol], title: str = ""
) -> Figures:
    """Fit protocols on embeddings, by name or built, and measure them on others; the log names them with `title`."""
    results = Figures()
    for protocol in make_protocols(protocols, {}):
        if not isinstance(protocol, OnEmbeddings):
            raise ValueError(f"`protocols` {protocol.name} needs the encoder and its images: use `evaluate_encoder`.")
        name = f"{title}, {protocol.name}" if title else protocol.name
        results |= _logged(name, protocol.run(train, test))
    return results


def _logged(title: str, results: dict[str, float]) -> dict[str, float]:
    """The same figures, logged at once as in tables, so that they are not lost if a later protocol fails."""
    if is_first_rank():
        figures = [
            f"{readable_name(key)} {figure_text(key, value)}" for key, value in results.items() if not is_spread(key)
        ]
        logger.info(f"{title}: {', '.join(figures)}")
    return results
