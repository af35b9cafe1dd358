"""Linear probe on frozen features, its learning rate swept in one run."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import get_cosine_schedule_with_warmup

from ...data.sources import ImageSource
from ...system.devices import default_device, threads_for
from ...system.progress_bars import progress_bar
from ..classification import hits_and_certainty
from ..embeddings.extraction import LabelledEmbeddings
from ..labelled_sources import count_classes, labels_of
from ..multi_label import multi_label_figures, with_classes_of
from .protocol import OfClasses, OnEmbeddings

logger = logging.getLogger("lejepa_hf")

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_WEIGHT_DECAY = 1e-6
_MANY = 100_000  # images, from which on batches and steps are DINOv2's: 12,500 steps of 1,024 for ImageNet-1k
_SAMPLE, _CHUNK = 10_000, 4096
_SEED = 0  # of the batches and of the tenth; the layer starts at zero


@dataclass(frozen=True)
class Linear(OfClasses, OnEmbeddings):
    """
    LayerNorm and one linear layer, AdamW with weight decay 1e-6, warmup and cosine, in batches of 256; 1,024 from
    100,000 images on.

    All learning rates are tried at once while a tenth of the training images is set aside. The rate that does best on
    that tenth is fitted again, on all training images. Test images choose nothing.

    For multi-label each class has its own binary output: the loss is their binary cross-entropy, and the rate with
    the lowest one on the tenth is chosen.

    Source: features, norm, optimizer, weight decay and schedule of arXiv 2511.08544, experiment details; its learning
    rate, steps and batch are not published: the sweep is that of DINOv2, arXiv 2304.07193, but for what chooses.
    """

    name = "linear"
    kinds = ("class", "multi-label")

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """Also refuse class numbers far too large for a row of the layer each; those of a stream are known later."""
        super().check(train, test)
        if test.label_kind == "class":
            count_classes(*(labels for source in (train, test) if (labels := labels_of(source)) is not None))

    def run(
        self,
        train: LabelledEmbeddings,
        test: LabelledEmbeddings,
        learning_rates: Sequence[float] = LEARNING_RATES,
        num_steps: int | None = None,
    ) -> dict[str, float]:
        """
        `eval_linear_top1` and with at least five classes `eval_linear_top5`, and so on for other metrics; for
        multi-label those of [`multi_label_figures`].
        `learning_rates` are peaks; a tenth of `num_steps` is warmup, and if missing, they are ten passes over the
        images, at least 1,000 steps. The `probe_features` of `train` may lie on disk.
        """
        number = len(train.labels)
        batch_size = min(number, 256 if number < _MANY else 1024)
        num_steps = num_steps or max(1000, math.ceil(10 * number / batch_size))
        is_multi_label = train.labels.ndim > 1
        if is_multi_label:
            train = with_classes_of(train, test)
        num_classes = train.labels.shape[1] if is_multi_label else count_classes(train.labels, test.labels)
        order = torch.randperm(number, generator=torch.Generator().manual_seed(_SEED))
        aside, others = order[: number // 10], order[number // 10 :]
        rate = learning_rates[0]
        with threads_for(batch_size * train.probe_features.shape[1] * num_classes):
            if len(learning_rates) > 1 and len(aside):
                probes = _fit(train, others, learning_rates, num_classes, num_steps, batch_size)
                found = [_hits_and_certainty(probe, train, aside) for probe in probes]
                rate = learning_rates[found.index(max(found))]
                logger.info(
                    f"linear probe: learning rate {rate:g}, best of {len(probes)} on {len(aside)} training images"
                )
            (probe,) = _fit(train, torch.arange(number), [rate], num_classes, num_steps, batch_size)
        if is_multi_label:
            scores = torch.cat([_logits(probe, test, rows) for rows in torch.arange(len(test.labels)).split(_CHUNK)])
            return multi_label_figures("eval_linear", test.labels.numpy() > 0, scores.numpy(), test.class_names)
        predictions = self.predictions(test.labels)
        for rows in torch.arange(len(test.labels)).split(_CHUNK):
            predictions.add(_logits(probe, test, rows).softmax(1))
        return predictions.figures("eval_linear")


def layer_of_zeros(kind: type[nn.Module], *sizes: int) -> nn.Module:
    """A layer of this kind whose parameters are 0; `kind` itself would draw its first ones from the global RNG."""
    layer = nn.utils.skip_init(kind, *sizes)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _Probe(nn.Sequential):
    """LayerNorm and a linear layer of zeros, on features brought to one scale."""

    def __init__(self, dim: int, num_classes: int, scale: torch.Tensor, device: torch.device) -> None:
        super().__init__(nn.LayerNorm(dim), layer_of_zeros(nn.Linear, dim, num_classes))
        self.to(device)
        self.scale, self.device = scale.to(device), device

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # Features of tiny scale would drown in LayerNorm's epsilon.
        return super().forward(features / self.scale)


def _fit(
    train: LabelledEmbeddings,
    rows: torch.Tensor,
    rates: Sequence[float],
    num_classes: int,
    num_steps: int,
    batch_size: int,
) -> list[_Probe]:
    """Probes that see the same batches of these rows, each with its own learning rate."""
    features, device = train.probe_features, default_device()
    scale = features[rows[:_SAMPLE]].float().std().clamp_min(1e-12)
    probes = [_Probe(features.shape[1], num_classes, scale, device) for _ in rates]
    groups = [{"params": list(probe.parameters()), "lr": rate} for probe, rate in zip(probes, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
    generator = torch.Generator().manual_seed(_SEED)
    for _ in progress_bar(range(num_steps), desc="linear probe", unit=" steps"):
        # Sorted, since features may be read from a disk.
        chosen = rows[torch.randint(len(rows), (min(batch_size, len(rows)),), generator=generator)].sort().values
        batch, labels = features[chosen].to(device, torch.float32), train.labels[chosen].to(device)
        loss = torch.stack([_loss(probe(batch), labels) for probe in probes]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probes


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of class numbers, or binary cross-entropy of several classes of one image."""
    if labels.ndim > 1:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    return F.cross_entropy(logits, labels)


@torch.inference_mode()
def _logits(probe: _Probe, images: LabelledEmbeddings, rows: torch.Tensor) -> torch.Tensor:
    return probe(images.probe_features[rows].to(probe.device, torch.float32)).cpu()


def _hits_and_certainty(probe: _Probe, images: LabelledEmbeddings, rows: torch.Tensor) -> tuple[int, float]:
    """[`hits_and_certainty`] of these rows, whose features may lie on disk; without hits for multi-label."""
    hits, certainty = 0, 0.0
    for chunk in rows.split(_CHUNK):
        if images.labels.ndim > 1:
            certainty -= float(_loss(_logits(probe, images, chunk), images.labels[chunk])) * len(chunk)
            continue
        of_chunk = hits_and_certainty(_logits(probe, images, chunk), images.labels[chunk])
        hits, certainty = hits + of_chunk[0], certainty + of_chunk[1]
    return hits, certainty
