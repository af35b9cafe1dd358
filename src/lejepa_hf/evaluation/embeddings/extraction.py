"""extract_embeddings: a frozen encoder and a labelled source -> embeddings, once for all protocols."""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as compute
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ...data.errors import DataError
from ...data.readers.addresses import split_address
from ...data.sources import ImageSource
from ...system.distributed import (
    failing_together,
    is_first_rank,
    process_index,
    shared_temporary_folder,
    wait_for_all,
    world_size,
)
from ...system.folder_lock import locked_folder
from ...system.installed_package import installed_versions
from ..feature_extractor import FeatureExtractor
from ..labelled_sources import check_label_values, map_style, select_rows
from .image_batches import ImageBatch, image_batches, rows_from
from .label_arrays import label_array
from .parts import EmbeddingParts, as_column
from .store import StoredEmbeddings, join_columns

logger = logging.getLogger("lejepa_hf")

_SECONDS_PER_PART = 60.0  # the most work that a kill can cost
_READ_WHOLE = 2**30  # bytes; larger files stay on disk
_CHUNK = 16384  # images at a time: embeddings may lie on disk
_NAMED = 5


@dataclass
class LabelledEmbeddings:
    """
    Embeddings `(num_images, dim)` of images, on the host or in a file that is mapped into memory, and their labels as
    [`label_array`] has them: class numbers `(num_images,)`, -1 for all images of a source without labels; for
    multi-label `(num_images, num_classes)`; or numbers `(num_images,)`. `class_names` are those of the source.

    `probe_features` `(num_images, probe_dim)` are for a linear probe, see [`FeatureExtractor.with_probe_features`];
    the embeddings if missing. `broken` are the rows of the source that are left out, if one process extracted them.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    probe_features: torch.Tensor = field(default=None)  # type: ignore[assignment]  # never None when built
    broken: frozenset[int] = frozenset()
    class_names: list[str] | None = None

    def __post_init__(self) -> None:
        if self.probe_features is None:
            self.probe_features = self.embeddings

    def rows(self) -> list[int]:
        """Numbers of the source's rows, one for each embedding."""
        return [row for row in range(len(self.labels) + len(self.broken)) if row not in self.broken]

    def refuse_not_finite(self, source: ImageSource) -> None:
        """Raise ValueError if embeddings or probe features are NaN or infinite, with their number and first rows."""
        found: list[int] = []
        for begin in range(0, len(self.labels), _CHUNK):
            parts = (part[begin : begin + _CHUNK] for part in (self.embeddings, self.probe_features))
            is_finite = torch.stack([part.isfinite().all(1) for part in parts]).all(0)
            found += (begin + torch.nonzero(~is_finite)[:, 0]).tolist()
        if not found:
            return
        rows = self.rows()
        first = ", ".join(str(rows[number]) for number in found[:_NAMED])
        raise ValueError(
            f"`dataset` {source.name!r}: {len(found):,} of {len(self.labels):,} images have NaN or infinite "
            f"embeddings (rows {first}{', ...' if len(found) > _NAMED else ''}), so that no figure can be measured. "
            "Use another checkpoint of the encoder, or leave these images out."
        )


def extract_embeddings(
    encoder: PreTrainedModel,
    processor: BaseImageProcessor,
    source: ImageSource,
    batch_size: int = 256,
    cache_dir: str | Path | None = None,
) -> LabelledEmbeddings:
    """
    Run a frozen encoder over a source, once for all protocols.

    With several processes each one embeds its part of the images, and all return all embeddings; if one of them fails,
    all do. More than 1 GiB of
    them stay in a mapped file. A DataError is raised if they cannot be written, or no image can be read; a ValueError
    if some are NaN or infinite, of which every protocol would make a figure.

    Args:
        encoder (`PreTrainedModel`): Encoder whose embeddings with `pooling="auto"` of [`FeatureExtractor`] are wanted.
        processor (`BaseImageProcessor`): Makes pixel values of images.
        source ([`ImageSource`]): Images, with labels where a protocol needs them.
        batch_size (`int`, *optional*, defaults to 256): Images of a forward pass.
        cache_dir (`str` or `Path`, *optional*): Folder, seen by all processes, where embeddings are found again by
            encoder, preprocessing and data, and continued after a kill. Streams have no identity and are embedded each
            time. If missing, embeddings go into a temporary folder.
    """
    extractor = FeatureExtractor(encoder, processor)
    if cache_dir is not None and (name := _name_in_cache(extractor, source)) is not None:
        folder = Path(cache_dir) / name
        # A complete one is not locked: it may belong to somebody else, and only be readable.
        is_locked = is_first_rank() and not _is_found(folder, extractor, source)
        with locked_folder(folder, "`cache_dir`", wait=True) if is_locked else nullcontext():
            wait_for_all()
            return _extract(extractor, source, batch_size, folder)
    # A mapped file stays readable after it is deleted.
    with shared_temporary_folder() as folder:
        return _extract(extractor, source, batch_size, folder)


def _is_found(folder: Path, extractor: FeatureExtractor, source: ImageSource) -> bool:
    """
    Whether all embeddings are in a folder. They are deleted if they lack an image which can be read now: its file was
    away, or `max_image_pixels` lower.
    """
    stored = StoredEmbeddings(folder)
    for row in stored.broken if os.access(folder, os.W_OK) else ():
        if extractor.refusal(map_style(source)[row][source.image_column], source.max_image_pixels) is None:
            logger.warning(f"{source.name}: row {row} was broken and can be read now; all images are embedded again")
            stored.forget()
            return False
    return stored.is_complete


def _extract(extractor: FeatureExtractor, source: ImageSource, batch_size: int, folder: Path) -> LabelledEmbeddings:
    is_found = StoredEmbeddings(folder).is_complete
    if not is_found:
        rank, ranks = process_index(), world_size()
        folders = [folder / f"part-{number}-of-{ranks}" for number in range(ranks)]
        with failing_together():
            part = part_of(source, rank, ranks)
            _fill(EmbeddingParts(folders[rank], _SECONDS_PER_PART), extractor, part, batch_size)
        with failing_together():
            if is_first_rank():
                join_columns(folder, folders)
    embedded = read_embeddings(folder, source, _READ_WHOLE)
    source.num_read = len(embedded.labels)
    if is_found:
        logger.info(f"{source.name}: embeddings of {source.num_read} images found in {folder}")
    embedded.refuse_not_finite(source)
    return embedded


def _fill(parts: EmbeddingParts, extractor: FeatureExtractor, source: ImageSource, batch_size: int) -> None:
    dim = 0
    is_same = "probe_features" not in parts.columns if parts.columns else None

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal dim, is_same
        embedding, features = extractor.with_probe_features(pixels)
        dim = embedding.shape[1]
        if is_same is None:  # without a class token, both are the mean
            is_same = embedding.shape == features.shape and torch.allclose(embedding, features, 1e-3, 1e-5)
        return embedding if is_same else torch.cat([embedding, features], dim=1)

    try:
        for batch, found in embedded_batches(extractor, source, batch_size, parts.next_row, embed):
            if source.label_column is not None:
                check_label_values(batch.labels, source)  # those of a stream are only known now
            vectors = {"embeddings": found[..., :dim]} | ({} if is_same else {"probe_features": found[..., dim:]})
            parts.add(batch, as_table(batch, vectors, source))
    finally:
        parts.save()  # kept after a failure


def as_table(batch: ImageBatch, vectors: dict[str, torch.Tensor], source: ImageSource) -> pa.Table:
    """Columns of images by their names in [`LabelledEmbeddings`]; none for a batch without images."""
    if not batch.numbers:
        return pa.table({})
    labels = label_array(batch.labels, source)
    column = as_column(labels) if labels.ndim > 1 else labels
    return pa.table({"labels": column} | {name: as_column(values.numpy()) for name, values in vectors.items()})


def read_embeddings(folder: Path, source: ImageSource, most_in_memory: int) -> LabelledEmbeddings:
    """Read what [`join_columns`] has stored of a source. A DataError is raised if no image could be decoded."""
    stored = StoredEmbeddings(folder)
    row, reason = next(iter(stored.broken.items()), (0, ""))
    if stored.broken:
        first = f"the first one row {row}: {reason}"
        logger.warning(f"{source.name}: {len(stored.broken)} broken images are left out, {first}")
    columns = stored.read(most_in_memory)
    if not columns:
        if not stored.broken:
            raise DataError(f"{source.name}: there are no images, or none of them has a label.")
        raise DataError(f"{source.name}: none of its images can be read; the first one: {reason}.")
    return LabelledEmbeddings(**columns, broken=frozenset(stored.broken), class_names=source.class_names)


def part_of(source: ImageSource, rank: int, ranks: int) -> ImageSource:
    """The images of one process: consecutive ones, or of a stream its share of the shards."""
    if ranks == 1:
        return source
    if not source.is_stream:
        number = len(map_style(source))
        return select_rows(source, range(rank * number // ranks, (rank + 1) * number // ranks))
    from datasets.distributed import split_dataset_by_node

    return replace(source, dataset=split_dataset_by_node(source.dataset, rank, ranks))


def _name_in_cache(extractor: FeatureExtractor, source: ImageSource) -> str | None:
    """A name that changes with everything that the embeddings depend on; None for images without an identity."""
    if source.fingerprint is None:
        return None
    identity = {
        "data": source.fingerprint,
        "columns": [source.image_column, source.label_column],
        "files": _state_of_files(source),
        "encoder": extractor.fingerprint(),
        "versions": installed_versions(),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def _state_of_files(source: ImageSource) -> int:
    """A checksum of sizes and times of the images' files, where rows are paths: an image may have been replaced."""
    column = map_style(source).data.column(source.image_column)
    check = 0
    if str(column.type) == "struct<bytes: binary, path: string>":
        is_file = compute.is_null(compute.struct_field(column, "bytes"))
        for path in compute.struct_field(column, "path").filter(is_file).to_pylist():
            file = split_address(path)[0] if path is not None else ""
            if os.path.exists(file):  # a zarr container is a folder
                found = os.stat(file)
                check = zlib.crc32(f"{path} {found.st_size} {found.st_mtime_ns}".encode(), check)
    return check


def embedded_batches(
    extractor: FeatureExtractor,
    source: ImageSource,
    batch_size: int,
    start: int = 0,
    embed: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[tuple[ImageBatch, torch.Tensor]]:
    """
    The batches of [`image_batches`] from row `start` on, read by [`rows_from`], each with what `embed`, or `extractor`
    if missing, makes of its pixel values: fp32, on the host; an empty tensor for a batch whose images are all broken.
    """
    waiting, embed, rows = None, embed or extractor, rows_from(source, start)
    decode = partial(extractor.decode_reduced, max_image_pixels=source.max_image_pixels)
    for batch in image_batches(source, batch_size, decode, extractor.batch, "embedding", rows, start):
        found = embed(batch.images) if batch.images is not None else torch.empty(0)
        # A batch is fetched after the next one was started, so that the device does not wait for the host.
        if waiting is not None:
            yield waiting[0], waiting[1].cpu()
        waiting = batch, found
    if waiting is not None:
        yield waiting[0], waiting[1].cpu()
