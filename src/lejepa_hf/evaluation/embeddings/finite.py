"""extract_finite: embeddings without NaN and infinity, of which every protocol would make a figure."""

from pathlib import Path

import torch

from ...data.image_source import ImageSource
from ..encoder_loading import LoadedEncoder
from .extraction import LabelledEmbeddings, extract_embeddings

_CHUNK = 16384  # images at a time: embeddings may lie on disk
_NAMED = 5


def extract_finite(
    loaded: LoadedEncoder, source: ImageSource, batch_size: int = 256, cache_dir: str | Path | None = None
) -> LabelledEmbeddings:
    """[`extract_embeddings`], whose embeddings are all finite, or a ValueError that names those that are not."""
    embedded = extract_embeddings(*loaded, source, batch_size, cache_dir)
    refuse_not_finite(embedded, source)
    return embedded


def refuse_not_finite(embedded: LabelledEmbeddings, source: ImageSource) -> None:
    """Raise ValueError if embeddings or probe features of a source are NaN or infinite, with their number and rows."""
    found: list[int] = []
    parts = (embedded.embeddings, embedded.probe_features)
    for begin in range(0, len(embedded.labels), _CHUNK):
        is_finite = [part[begin : begin + _CHUNK].isfinite().all(1) for part in parts]
        found += (begin + torch.nonzero(~(is_finite[0] & is_finite[1]))[:, 0]).tolist()
    if not found:
        return
    rows = embedded.rows()
    first = ", ".join(str(rows[number]) for number in found[:_NAMED])
    raise ValueError(
        f"`dataset` {source.name!r}: {len(found):,} of {len(embedded.labels):,} images have NaN or infinite "
        f"embeddings (rows {first}{', ...' if len(found) > _NAMED else ''}), so that no figure can be measured. Use "
        "another checkpoint of the encoder, or leave these images out."
    )
