"""Frozen encoder -> embeddings and labels, once for all protocols; pretraining model -> projections of views."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image

from ..data.collator import MultiCropCollator
from ..data.decoding import decode_image, stored_size
from ..data.photometric import apply_photometric
from ..data.sources import ImageSource
from .feature_extractor import FeatureExtractor
from .image_batches import ImageBatch, image_batches

logger = logging.getLogger("lejepa_hf")

_PIXELS_SIDE = 32


@dataclass
class LabelledEmbeddings:
    """
    Args:
        embeddings (`torch.Tensor` of shape `(num_images, dim)`): fp32, on the host.
        labels (`torch.Tensor` of shape `(num_images,)`): Class numbers.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor


def extract_embeddings(encoder, processor, source: ImageSource, batch_size: int = 256) -> LabelledEmbeddings:
    """
    Run a frozen encoder over a labelled source.

    Args:
        encoder (`PreTrainedModel`): Its trained embedding is taken, `pooling="auto"` of [`FeatureExtractor`].
        processor (`ImageProcessor`): Makes pixel values from images; its `pixel_range`, if it has one, says what black
            and white are in arrays and 16-bit images.
        source ([`ImageSource`]): Needs a label column.
        batch_size (`int`, *optional*, defaults to 256): Images a forward.

    Returns:
        [`LabelledEmbeddings`]
    """
    extractor = FeatureExtractor(encoder, processor)
    embeddings, labels, broken = [], [], {}
    for batch, of_batch in embedded_batches(extractor, source, batch_size):
        embeddings.append(of_batch)
        labels += batch.labels
        broken |= batch.broken
    _tell_broken(source, broken)
    return LabelledEmbeddings(torch.cat(embeddings), torch.tensor(labels))


def embedded_batches(
    extractor: FeatureExtractor,
    source: ImageSource,
    batch_size: int,
    rows: Iterable[dict] | None = None,
    start: int = 0,
) -> Iterator[tuple[ImageBatch, torch.Tensor]]:
    """
    The one loop that embeds images.

    Args:
        extractor ([`FeatureExtractor`]): The encoder, and what is taken from it.
        source, batch_size, rows, start: As in [`~evaluation.image_batches.image_batches`].

    Returns:
        `Iterator`: Each batch with its embeddings, fp32, on the host; none for a batch whose images are all broken.
    """
    waiting = None
    for batch in image_batches(source, batch_size, extractor.decode, extractor.preprocess, "embedding", rows, start):
        found = extractor(batch.images) if batch.images is not None else torch.empty(0)
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
    Views of images through encoder and projector, as in training but in evaluation mode and without the losses, which
    would wait for other processes.

    Args:
        model ([`LeJEPAForPreTraining`]): On the device where the work is done.
        rows (`Iterable[dict]`): With an image, and the epoch and index that fix its views.
        collator ([`MultiCropCollator`]): Cuts the views.
        batch_size (`int`, *optional*, defaults to 64): Images a forward.

    Returns:
        `torch.Tensor` of shape `(num_views, num_images, dim)`: fp32, on the host, global views first.

    Raises:
        ValueError: If there are no rows.
    """
    model.eval()
    rows, projections = iter(rows), []
    while batch := list(islice(rows, batch_size)):
        views = {name: value.to(model.device) for name, value in collator(batch).items() if torch.is_tensor(value)}
        views = apply_photometric(views, collator.transform)
        pixels = [of_size.transpose(0, 1).to(model.dtype) for of_size in views.values()]  # (V, B, C, H, W), by size
        embeddings = torch.cat([model.encoder(of_size.flatten(0, 1)).pooler_output for of_size in pixels])
        projections.append(model.projector(embeddings).unflatten(0, (-1, len(batch))).float().cpu())
    if not projections:
        raise ValueError("There are no images to make projections of.")
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
