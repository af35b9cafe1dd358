"""k folds of a small labelled source: each image is measured once, by protocols that were fitted on the others."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.held_out_share import fold_of_rows
from ..data.image_source import ImageSource
from ..system.distributed import is_first_rank
from ..system.number_range import whole
from .embeddings.extraction import LabelledEmbeddings, extract_embeddings
from .encoder_loading import LoadedEncoder
from .evaluate_encoder import run_protocols
from .intervals import is_spread, over_draws
from .labelled_sources import labels_of, select_rows
from .protocols.protocol import OnEmbeddings, Protocol
from .protocols.registry import make_protocols
from .protocols.served_labels import check_served, usual_protocols

logger = logging.getLogger("lejepa_hf")

_FOLDS = whole(2, 100, way_out="5 or 10 are usual")


@dataclass(frozen=True)
class Folds:
    """
    A labelled source in folds, from [`make_folds`], and the protocols to measure on them.

    Args:
        source ([`ImageSource`]): Labelled images, not a stream.
        of_rows (`np.ndarray` of shape `(num_images,)`): Number of the fold of each image.
        protocols (`list[Protocol]`): Protocols that need embeddings alone.
    """

    source: ImageSource
    of_rows: np.ndarray
    protocols: list[Protocol]

    def __str__(self) -> str:
        sizes = np.bincount(self.of_rows)
        shown = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
        return f"{len(sizes)} folds of {shown} images"

    def measure(
        self, encoder: LoadedEncoder, batch_size: int = 256, cache_dir: str | Path | None = None
    ) -> dict[str, float]:
        """
        The mean over folds of each figure, in [0, 1], half the width of its 95 % interval by Student's t as `_ci95`,
        and the standard deviation of the folds as `_std`. Folds have most of their training images in common, so that
        the interval is a guide. Images are embedded once; only the first of several processes gets figures.
        """
        embedded = extract_embeddings(*encoder, self.source, batch_size, cache_dir)
        if not is_first_rank():
            return {}
        of_rows = self.of_rows[embedded.rows()]
        found = []
        for fold in range(int(self.of_rows.max()) + 1):
            train, test = (_part(embedded, of_rows != fold), _part(embedded, of_rows == fold))
            found.append(run_protocols(train, test, self.protocols, f"fold {fold + 1}"))
        names = [name for name in found[0] if not is_spread(name) and all(name in one for one in found)]
        results: dict[str, float] = {}
        for name in names:
            results |= over_draws(name, [one[name] for one in found])
        return results


def make_folds(
    source: ImageSource,
    number: int,
    protocols: Sequence[str | Protocol] | None,
    group_column: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> Folds:
    """
    Divide labelled images into folds, by hashes as in [`~data.held_out_share.split_off`]: about the same share of each
    class in each fold, no group in two of them, whatever the order of the images.

    Args:
        source ([`ImageSource`]): Labelled images.
        number (`int`): Number of folds, in [2, 100].
        protocols (`Sequence[str | Protocol]`): `linear`, `knn`, `few-shot`, `logistic`, `retrieval`, `ridge`; or
            built ones. If None, those that are usual for the labels.
        group_column (`str`, *optional*): Column, or level of folders, of groups such as patients.
        settings (`dict`, *optional*): Settings of the protocols.

    Raises:
        ValueError: If the images are a stream, a protocol needs more than embeddings, or a fold would have no images
            or a class that the others do not have.
    """
    _FOLDS.check("folds", number)
    chosen = make_protocols(usual_protocols(source) if protocols is None else protocols, settings or {})
    if source.is_stream:
        raise ValueError(f"`folds` needs the images of {source.name!r} by their numbers: leave `streaming` out.")
    if source.several_labels:
        columns = ", ".join(source.several_labels)
        raise ValueError(f"`folds` take one column of labels, but `label_column` names {columns}: leave others out.")
    check_served(chosen, source)
    for protocol in chosen:
        if not isinstance(protocol, OnEmbeddings):
            raise ValueError(
                f"`folds`: the protocol {protocol.name} needs more than embeddings: leave one of them out."
            )
        protocol.check(source, source)
    of_rows, labels = fold_of_rows(source, number, group_column), labels_of(source)
    if len(np.unique(of_rows)) < number:
        raise ValueError(
            f"`folds` {number} are more than {source.name!r} can fill: it has {len(of_rows):,} images"
            f"{f', in groups by {group_column!r}' if group_column else ''}. Ask for fewer."
        )
    assert labels is not None, "not a stream"
    if source.label_kind == "class" and any(protocol.needs_known_classes for protocol in chosen):
        _refuse_unknown_classes(source, of_rows, labels)
    for fold in range(number):
        parts = [select_rows(source, np.flatnonzero(rows)) for rows in (of_rows != fold, of_rows == fold)]
        for protocol in chosen:
            protocol.check(parts[0], parts[1])
    folds = Folds(source, of_rows, chosen)
    if is_first_rank():
        logger.info(f"{source.name}: {folds}")
    return folds


def _refuse_unknown_classes(source: ImageSource, of_rows: np.ndarray, labels: np.ndarray) -> None:
    """Refuse classes that are in one fold only: nothing that is fitted on the others could know them."""
    alone = [label for label in np.unique(labels) if len(np.unique(of_rows[labels == label])) == 1]
    if alone:
        names = source.class_names or []
        shown = ", ".join(names[label] if label < len(names) else str(label) for label in alone[:5])
        raise ValueError(
            f"`folds`: all images of {len(alone):,} classes of {source.name!r} ({shown}) are in one fold, so that the "
            "protocols cannot know them: each class needs at least two images, or two groups; leave the others out."
        )


def _part(embedded: LabelledEmbeddings, of_part: np.ndarray) -> LabelledEmbeddings:
    rows = torch.from_numpy(np.flatnonzero(of_part))
    part = LabelledEmbeddings(embedded.embeddings[rows], embedded.labels[rows], class_names=embedded.class_names)
    is_same = embedded.probe_features is embedded.embeddings
    return part if is_same else replace(part, probe_features=embedded.probe_features[rows])


def fold_record(folds: Folds, results: Mapping[str, dict[str, float]], **conditions: Any) -> dict[str, Any]:  # noqa: ANN401
    """What `lejepa evaluate --folds --out` writes: figures by encoder, sizes of the folds, and conditions."""
    sizes = np.bincount(folds.of_rows).tolist()
    source = folds.source
    data = {"dataset": source.name, "config": source.config, "revision": source.revision, "split": source.split}
    encoders = {name: {"results": found} for name, found in results.items()}
    protocols = [protocol.name for protocol in folds.protocols]
    return {"encoders": encoders, "data": data, "images_of_folds": sizes, "protocols": protocols, **conditions}
