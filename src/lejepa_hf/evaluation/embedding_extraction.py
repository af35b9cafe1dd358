"""Frozen encoder -> embeddings and labels, once for all protocols; pretraining model -> projections of views."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..backbone.facts import forward_kwargs, num_channels
from ..backbone.pooling import pool
from ..data.collator import MultiCropCollator
from ..data.decoding import DECODING_ERRORS, decode_image, stored_size
from ..data.photometric import apply_photometric
from ..data.sources import ImageSource
from .pixel_values import to_pixel_values

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


def _rows(source: ImageSource, batch_size: int, description: str, channels: int, pixel_range: list[float] | None):
    """Batches of decoded images and their labels, with progress; broken images are left out and counted."""
    images, labels, broken = [], [], []
    for number, row in enumerate(tqdm(source.dataset, total=source.num_images, desc=description, leave=False)):
        try:
            images.append(decode_image(row[source.image_column], channels, pixel_range))
            labels.append(row[source.label_column])
        except DECODING_ERRORS as error:
            broken.append(f"row {number}: {type(error).__name__}: {error}")
        if len(images) == batch_size:
            yield images, labels
            images, labels = [], []
    if images:
        yield images, labels
    if broken:
        logger.warning(f"{source.name}: {len(broken)} broken images are left out, the first one {broken[0]}")


@torch.no_grad()
def extract_embeddings(encoder, processor, source: ImageSource, batch_size: int = 256) -> LabelledEmbeddings:
    """
    Run a frozen encoder over a labelled source.

    Args:
        encoder (`PreTrainedModel`): Its `pooler_output` is the embedding, or the mean of `last_hidden_state` where
            the export says so (`config.embedding_pooling`) or there is no pooled output.
        processor (`ImageProcessor`): Makes pixel values from images; its `pixel_range`, if it has one, says what black
            and white are in arrays and 16-bit images.
        source ([`ImageSource`]): Needs a label column.
        batch_size (`int`, *optional*, defaults to 256): Images a forward.

    Returns:
        [`LabelledEmbeddings`]
    """
    encoder.eval()
    embeddings, labels = [], []
    channels, pixel_range = num_channels(encoder.config), getattr(processor, "pixel_range", None)
    for images, batch_labels in _rows(source, batch_size, "embedding", channels, pixel_range):
        pixels = to_pixel_values(images, processor, channels)
        outputs = encoder(pixels.to(encoder.device, encoder.dtype), **forward_kwargs(encoder))
        embeddings.append(_embedding(encoder, outputs).float().cpu())
        labels += batch_labels
    return LabelledEmbeddings(torch.cat(embeddings), torch.tensor(labels))


def _embedding(encoder, outputs) -> torch.Tensor:
    """As the export says; for other models the pooled output, or the mean where there is none."""
    pooled = getattr(outputs, "pooler_output", None) is not None
    return pool(outputs, getattr(encoder.config, "embedding_pooling", "pooler" if pooled else "mean"))


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
    images, labels = [], []
    for batch, batch_labels in _rows(source, 256, "raw pixels", channels, pixel_range):
        images += batch
        labels += batch_labels
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
