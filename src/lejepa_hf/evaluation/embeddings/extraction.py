"""Frozen encoder -> embeddings and labels, once for all protocols; pretraining model -> projections of views."""

import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...data.batch import tensors_of_views
from ...data.collator import MultiCropCollator
from ...data.decoding import decode_image, stored_size
from ...data.errors import DataError
from ...data.photometric import apply_photometric
from ...data.sources import ImageSource
from ...model.batch_norm import batch_statistics
from ...system.distributed import is_first_rank, process_index, shared_temporary_folder, wait_for_all, world_size
from ...system.package_versions import installed_versions
from ..feature_extractor import FeatureExtractor
from ..labelled_sources import check_class_numbers
from .image_batches import ImageBatch, image_batches, rows_from
from .store import EmbeddingStore, locked, store_name

logger = logging.getLogger("lejepa_hf")

_PIXELS_SIDE = 32


@dataclass
class LabelledEmbeddings:
    """
    Args:
        embeddings (`torch.Tensor` of shape `(num_images, dim)`): On the host, or in a file that is mapped into memory.
        labels (`torch.Tensor` of shape `(num_images,)`): Class numbers.
        probe_features (`torch.Tensor` of shape `(num_images, probe_dim)`, *optional*): What a linear probe is fitted
            on, see [`FeatureExtractor.with_probe_features`]; the embeddings if missing.
        broken (`frozenset[int]`, *optional*): Rows of the source that are left out, of one process's extraction.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    probe_features: torch.Tensor | None = None
    broken: frozenset[int] = frozenset()

    def __post_init__(self):
        if self.probe_features is None:
            self.probe_features = self.embeddings

    def rows(self) -> list[int]:
        """Of the source, one for each embedding."""
        return [row for row in range(len(self.labels) + len(self.broken)) if row not in self.broken]


def extract_embeddings(
    encoder, processor, source: ImageSource, batch_size: int = 256, cache_dir: str | Path | None = None
) -> LabelledEmbeddings:
    """
    Run a frozen encoder over a labelled source, once for all protocols.

    With several processes each one embeds its part of the images; all get all embeddings.

    Args:
        encoder (`PreTrainedModel`): Its trained embedding is taken, `pooling="auto"` of [`FeatureExtractor`], and what
            a linear probe is fitted on.
        processor (`ImageProcessor`): Makes pixel values from images; its `pixel_range`, if it has one, says what black
            and white are in arrays and 16-bit images.
        source ([`ImageSource`]): Needs a label column.
        batch_size (`int`, *optional*, defaults to 256): Images a forward.
        cache_dir (`str` or `Path`, *optional*): Folder where embeddings are found again by encoder, preprocessing and
            data, and gone on with after a kill. Streams have no identity and are embedded each time. All processes
            must see it. If missing, embeddings go into a temporary folder.

    Returns:
        [`LabelledEmbeddings`]: More than 1 GiB of them lie in a file that is mapped into memory.

    Raises:
        DataError: If they cannot be written, or no image could be read.
    """
    extractor = FeatureExtractor(encoder, processor)
    name = _name_in_cache(extractor, source) if cache_dir is not None else None
    if name is not None:
        folder = Path(cache_dir) / name
        with locked(folder) if is_first_rank() else nullcontext():
            wait_for_all()
            return _extract(extractor, source, batch_size, folder)
    # A file that is mapped stays readable after its name is gone.
    with shared_temporary_folder() as folder:
        return _extract(extractor, source, batch_size, folder)


def _extract(extractor: FeatureExtractor, source: ImageSource, batch_size: int, folder: Path) -> LabelledEmbeddings:
    store, ranks = EmbeddingStore(folder), world_size()
    if store.is_complete:
        logger.info(f"{source.name}: embeddings of {store.num_images} images found in {folder}")
    elif ranks == 1:
        _fill(store, extractor, source, batch_size)
    else:
        parts = [folder / f"part-{rank}-of-{ranks}" for rank in range(ranks)]
        part = EmbeddingStore(parts[process_index()])
        if not part.is_complete:
            _fill(part, extractor, part_of(source, process_index(), ranks), batch_size)
        wait_for_all()
        if is_first_rank():
            store.take(parts)
        wait_for_all()
        store = EmbeddingStore(folder)
    _tell_broken(source, store.broken)
    if not store.num_images:
        raise DataError(f"{source.name}: none of its images can be read; the first one: {store.broken.get(0)}.")
    return LabelledEmbeddings(*store.read(), frozenset(store.broken))


def _fill(store: EmbeddingStore, extractor: FeatureExtractor, source: ImageSource, batch_size: int) -> None:
    dim, is_same = store.dim, store.width == store.dim if store.width else None

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal dim, is_same
        embedding, features = extractor.with_probe_features(pixels)
        dim = embedding.shape[1]
        if is_same is None:  # where there is no class token, both are the mean
            is_same = embedding.shape == features.shape and torch.allclose(embedding, features, 1e-3, 1e-5)
        return embedding if is_same else torch.cat([embedding, features], dim=1)

    rows = rows_from(source, store.next_row)
    for batch, features in embedded_batches(extractor, source, batch_size, rows, store.next_row, embed):
        check_class_numbers(batch.labels, source)  # a stream's are not known before
        store.add(batch, features, dim)
    store.save(is_complete=True)


def part_of(source: ImageSource, rank: int, ranks: int) -> ImageSource:
    """Consecutive images for each process; of a stream its share of the shards."""
    dataset = source.dataset
    if not source.is_stream:
        number = len(dataset)
        return replace(source, dataset=dataset.select(range(rank * number // ranks, (rank + 1) * number // ranks)))
    from datasets.distributed import split_dataset_by_node

    return replace(source, dataset=split_dataset_by_node(dataset, rank, ranks))


def _name_in_cache(extractor: FeatureExtractor, source: ImageSource) -> str | None:
    """None where nothing tells one set of images from another."""
    data = source.fingerprint
    if data is None:
        return None
    columns = [source.image_column, source.label_column]
    return store_name(
        data=data, files=_state_of_files(source), columns=columns, encoder=extractor.fingerprint(),
        versions=installed_versions(),
    )  # fmt: skip


def _state_of_files(source: ImageSource) -> int:
    """Follows from sizes and times of the images' files, where rows are paths: an image may have been replaced."""
    import pyarrow.compute

    column = source.dataset.data.column(source.image_column)
    check = 0
    if str(column.type) == "struct<bytes: binary, path: string>":
        is_file = pyarrow.compute.is_null(pyarrow.compute.struct_field(column, "bytes"))
        for path in pyarrow.compute.struct_field(column, "path").filter(is_file).to_pylist():
            if path is not None and os.path.isfile(path):
                found = os.stat(path)
                check = zlib.crc32(f"{path} {found.st_size} {found.st_mtime_ns}".encode(), check)
    return check


def embedded_batches(
    extractor: FeatureExtractor,
    source: ImageSource,
    batch_size: int,
    rows: Iterable[dict] | None = None,
    start: int = 0,
    embed: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[tuple[ImageBatch, torch.Tensor]]:
    """
    The one loop that embeds images.

    Args:
        extractor ([`FeatureExtractor`]): The encoder, and what is taken from it.
        source, batch_size, rows, start: As in [`~evaluation.embeddings.image_batches.image_batches`].
        embed (`Callable`, *optional*): Pixel values to features, if not `extractor` itself.

    Returns:
        `Iterator`: Each batch with its embeddings, fp32, on the host; none for a batch whose images are all broken.
    """
    waiting, embed = None, embed or extractor
    for batch in image_batches(source, batch_size, extractor.decode, extractor.preprocess, "embedding", rows, start):
        found = embed(batch.images) if batch.images is not None else torch.empty(0)
        # A batch is fetched when the next one is on its way: the device does not wait for the host.
        if waiting is not None:
            yield waiting[0], waiting[1].cpu()
        waiting = batch, found
    if waiting is not None:
        yield waiting[0], waiting[1].cpu()


def _tell_broken(source: ImageSource, broken: dict[int, str]) -> None:
    if broken:
        number, reason = next(iter(broken.items()))
        logger.warning(
            f"{source.name}: {len(broken)} broken images are left out, the first one row {number}: {reason}"
        )


@torch.no_grad()
def extract_projections(
    model, rows: Iterable[dict], collator: MultiCropCollator, batch_size: int = 64
) -> torch.Tensor:
    """
    Views of images through encoder and projector, as SIGReg sees them in training: batch norm by batches, see
    [`~model.batch_norm.batch_statistics`], but no dropout; without the losses, which would wait for other
    processes.

    Args:
        model ([`LeJEPAForPreTraining`]): On the device where the work is done.
        rows (`Iterable[dict]`): With an image, and the epoch and index that fix its views.
        collator ([`MultiCropCollator`]): Cuts the views.
        batch_size (`int`, *optional*, defaults to 64): Images a forward, about: none is left to a forward of its own.

    Returns:
        `torch.Tensor` of shape `(num_views, num_images, dim)`: fp32, on the host, global views first.

    Raises:
        ValueError: If there are no rows.
    """
    model.eval()
    rows, projections = list(rows), []
    if not rows:
        raise ValueError("There are no images to make projections of.")
    with batch_statistics(model):
        for numbers in np.array_split(np.arange(len(rows)), max(1, len(rows) // batch_size)):
            batch = collator([rows[number] for number in numbers])
            views = {name: value.to(model.device) for name, value in tensors_of_views(batch).items()}
            views = apply_photometric(views, collator.transform)
            pixels = [of_size.transpose(0, 1).to(model.dtype) for of_size in views.values()]  # (V, B, C, H, W)
            embeddings = [model.encoder(of_size.flatten(0, 1)).pooler_output for of_size in pixels]
            projections.append(model.projector(*embeddings).unflatten(0, (-1, len(numbers))).float().cpu())
    return torch.cat(projections, dim=1)


def raw_pixels(source: ImageSource, channels: int = 3, pixel_range: list[float] | None = None) -> LabelledEmbeddings:
    """
    The baseline without any network: each image's pixels in [0, 1], at its own size up to 32 pixels a side, as one
    vector; images of several sizes are brought to 32 x 32.

    Args:
        source ([`ImageSource`]): Needs a label column.
        channels (`int`, *optional*, defaults to 3): Those of the encoder beside; greyscale images stay so for 3.
        pixel_range (`list[float]`, *optional*): As for the encoder.

    Returns:
        [`LabelledEmbeddings`]
    """

    def decode(value):
        return decode_image(value, channels, pixel_range)

    images, labels, broken = [], [], {}
    for batch in image_batches(source, 256, decode, list, "raw pixels"):
        images += batch.images or []
        labels += batch.labels
        broken |= batch.broken
    _tell_broken(source, broken)
    sizes = {stored_size(image) for image in images}
    size = next(iter(sizes)) if len(sizes) == 1 and max(next(iter(sizes))) <= _PIXELS_SIDE else (_PIXELS_SIDE,) * 2
    if channels in (1, 3):
        mode = "L" if {image.mode for image in images} == {"L"} else "RGB"
        pixels = [np.asarray(image.convert(mode).resize(size)) for image in images]
    else:
        pixels = [
            np.dstack([Image.fromarray(band).resize(size) for band in np.moveaxis(image, -1, 0)]) for image in images
        ]
    return LabelledEmbeddings(
        torch.from_numpy(np.stack([of_one.ravel() for of_one in pixels])).float() / 255, torch.tensor(labels)
    )
