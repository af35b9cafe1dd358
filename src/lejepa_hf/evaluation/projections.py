"""extract_projections: views of images -> projections of a pretraining model."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.collator import MultiCropCollator
from ..data.photometric import apply_photometric
from ..model.batch_norm import batch_statistics
from ..system.progress_bars import progress_bar


@torch.no_grad()
def extract_projections(
    model: PreTrainedModel,
    rows: Iterable[dict[str, Any]],
    collator: MultiCropCollator,
    batch_size: int = 64,
    seconds: float | None = None,
) -> torch.Tensor:
    """
    Pass views of images through encoder and projector, as SIGReg sees them in training: with batch norm over batches,
    see [`~model.batch_norm.batch_statistics`], but without dropout, and without the losses, which would wait for
    other processes.

    Each of `rows` has an image, and the epoch and index that determine its views, which `collator` cuts. A forward
    pass takes about `batch_size` images, at least half of it. After `seconds`, if given, no further pass begins, and
    the other images are left out. Projections have the shape `(num_views, num_images,
    dim)`, global views first, and are in fp32 on the host.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("There are no images to make projections of: give at least one row.")
    projections: list[torch.Tensor] = []
    started = time.monotonic()
    model.eval()
    encoder, projector = model.get_submodule("encoder"), model.get_submodule("projector")
    with batch_statistics(model):
        parts = np.array_split(np.arange(len(rows)), max(1, len(rows) // batch_size))
        for numbers in progress_bar(parts, desc="statistics", unit=" batches"):
            if projections and seconds is not None and time.monotonic() - started > seconds:
                break
            batch = collator([rows[number] for number in numbers])
            views = {name: value.to(model.device) for name, value in batch.items() if torch.is_tensor(value)}
            views = apply_photometric(views, collator.transform)
            pixels = [of_size.transpose(0, 1).to(model.dtype) for of_size in views.values()]  # (V, B, C, H, W)
            embeddings = [encoder(of_size.flatten(0, 1)).pooler_output for of_size in pixels]
            projections.append(projector(*embeddings).unflatten(0, (-1, len(numbers))).float().cpu())
    return torch.cat(projections, dim=1)
