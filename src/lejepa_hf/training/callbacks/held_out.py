"""HeldOutImages: a fixed sample of images on which a run is evaluated while it trains."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.image_processing_utils import BaseImageProcessor

from ...data.batch import GLOBAL_VIEWS, tensors_of_views
from ...data.collator import MultiCropCollator
from ...data.decoding import DECODING_ERRORS, decode_image
from ...data.rows import class_number
from ...data.shared_images import shared_images
from ...data.streaming import EndlessRows
from ...evaluation.embeddings.extraction import LabelledEmbeddings
from ...evaluation.pixel_values import check_enlargement, join_pixel_values, to_pixel_values
from ...evaluation.protocols.knn import nearest_vote
from ...evaluation.rank import rank_and_spread
from ...losses.prediction import prediction_loss
from ...model.batch_norm import batch_statistics
from ...modeling_lejepa import LeJEPAForPreTraining
from ...system.distributed import gather_for_loss, stack_over_ranks, total_over_ranks
from .monitor import HeldOutMonitor

logger = logging.getLogger("lejepa_hf")

# What an evaluation measures; accuracies need labels, an image processor, and the monitor of this name.
ACCURACIES = {"knn_top1": "knn", "online_probe_top1": "probe"}
MEASURES = ("loss", "prediction_loss", "sigreg_loss", "effective_rank", "embedding_spread", *ACCURACIES)

_BANK = 4  # training images for each held-out one, to find its neighbours among
_CHUNK = 64  # rows cut at a time


@dataclass
class _PlainImages:
    """
    Images without augmentation, `(M, C, H, W)` uint8, and the labels of the first of them, `(N,)`. M is the same on
    all ranks, so that they call the model equally often: the largest N, reached by repeating images.
    """

    pixels: torch.Tensor
    labels: torch.Tensor


@dataclass
class _Batch:
    """Views of a complete batch: how many images of this rank are new in it, and its weight in the mean of SIGReg."""

    views: dict[str, torch.Tensor]
    num_new: int
    weight: float


class HeldOutImages:
    """
    Held-out images and, if there are labels, training images, cut once and kept in memory as 8-bit pixels: 630 MB over
    all processes for 512 images of 224 pixels, half of it without k-NN.

    Every image is evaluated. SIGReg grows with the batch, so all batches have the same size: if the images do not
    divide evenly, the last batch is filled up with the first images. The prediction loss and the embeddings count each
    image once. SIGReg compares the distribution of a complete batch, so its mean is over batches, each weighted by the
    images that are new in it. Ranks may hold unequal numbers of images, but all of them make the same number of
    forward passes, as DDP and FSDP require.

    Views are cut by `collator` from at most `num_images` of `held_out` over all ranks. With the collator's
    `label_column` and a `processor`, the same images are also embedded without augmentation: for `monitors`, and, if
    `with_knn`, to search for their neighbours among four times as many images of `train`. Batches have the size of
    training in `args`, so that losses can be compared; `args.seed` chooses the images and their views, which are the
    same at every call.
    """

    def __init__(
        self,
        held_out: object,
        train: object,
        collator: MultiCropCollator,
        processor: BaseImageProcessor | None,
        num_images: int,
        args: TrainingArguments,
        with_knn: bool,
        monitors: Sequence[HeldOutMonitor],
    ) -> None:
        self.batch_size, self.device, self.processor = max(2, args.per_device_train_batch_size), args.device, processor
        self._collator, self._args, self._monitors = collator, args, monitors
        self.num_shared = 0  # on the first process: held-out images that are training images too
        if args.process_index == 0:
            shared = shared_images([(train, collator.image_column)], held_out, collator.image_column, num_images)
            shared.warn("`eval_dataset`")
            self.num_shared = shared.number
        self.batches = self._view_batches(held_out, num_images)
        self.bank, self.queries = None, None
        if collator.label_column is not None and processor is not None and (with_knn or monitors):
            self.queries = self._plain_images(held_out, num_images)
            self.bank = self._plain_images(train, _BANK * num_images) if with_knn else None
            if self.queries is None:
                logger.warning(
                    "Held-out accuracies are left out: too few held-out images have a class number as label."
                )
            elif with_knn and self.bank is None:
                logger.warning("`eval_knn_top1` is left out: too few training images have a class number as label.")

    def _chunks(self, dataset: object, num_images: int) -> Iterator[list[dict[str, Any]]]:
        """This rank's share of a sample of the first epoch, shuffled since folders and shards are sorted by class."""
        rows = EndlessRows(
            dataset,
            batch_size=1,
            seed=self._args.seed,
            rank=self._args.process_index,
            world_size=self._args.world_size,
            image_column=self._collator.image_column,
            shuffle_buffer_size=num_images,
        )
        first_epoch = takewhile(lambda row: row["epoch"] == 0, rows)
        own = islice(first_epoch, len(range(self._args.process_index, num_images, self._args.world_size)))
        while chunk := list(islice(own, _CHUNK)):
            yield chunk

    def _numbers(self, number: int) -> list[int]:
        """This number on each rank."""
        return stack_over_ranks(torch.tensor(number, device=self.device)).tolist()

    def _view_batches(self, held_out: object, num_images: int) -> list[_Batch]:
        parts = [self._collator(chunk) for chunk in self._chunks(held_out, num_images)]
        number = sum(len(part[GLOBAL_VIEWS]) for part in parts)
        numbers = self._numbers(number)
        if min(numbers) == 0 or sum(numbers) < 2:
            raise ValueError(
                f"The held-out images are fewer than 2 or than the {self._args.world_size} processes: give more, or "
                "set `eval_strategy: 'no'`."
            )
        cut = [tensors_of_views(part) for part in parts]
        views = {name: torch.cat([part[name] for part in cut]) for name in cut[0]}
        size = min(*numbers, self.batch_size)
        batches = []
        for begin in range(0, max(numbers), size):
            chosen = torch.arange(begin, begin + size) % number  # after the last image come the first ones
            new = [min(max(of_rank - begin, 0), size) for of_rank in numbers]
            filled = {name: of[chosen] for name, of in views.items()}
            batches.append(_Batch(filled, new[self._args.process_index], sum(new) / sum(numbers)))
        return batches

    def _plain_images(self, dataset: object, num_images: int) -> _PlainImages | None:
        assert self.processor is not None
        pixels, labels, views = [], [], self._collator.transform
        # Normalised on the device: as floats they would take four times the memory.
        plain = {"do_rescale": False, "do_normalize": False}
        for chunk in self._chunks(dataset, num_images):
            images = []
            for row in chunk:
                label = class_number(row.get(str(self._collator.label_column)))
                if label < 0:
                    continue
                with suppress(*DECODING_ERRORS):  # training counts broken images
                    value = row[self._collator.image_column]
                    image = decode_image(value, views.num_channels, views.pixel_range, views.max_image_pixels)
                    check_enlargement(image, self.processor, views.max_image_pixels)
                    images.append(to_pixel_values([image], self.processor, views.num_channels, **plain))
                    labels.append(label)
            if images:
                pixels.append(join_pixel_values(images).clamp(0, 255).round().to(torch.uint8))
        numbers = self._numbers(len(labels))
        if min(numbers) == 0 or sum(numbers) < 2:
            return None
        # Never a single image in a forward pass, for which the losses are undefined.
        repeated = torch.arange(max(2, *numbers)) % len(labels)
        return _PlainImages(torch.cat(pixels)[repeated], torch.tensor(labels))

    def measure(self, model: LeJEPAForPreTraining, forward: Callable[..., Any]) -> dict[str, float]:
        """
        Evaluate the model, in evaluation mode, without gradients, on all ranks: `prediction_loss`, the mean over
        images; `sigreg_loss`, the weighted mean over batches; `loss`, which joins both as in training; rank and spread
        of global views; with labels `knn_top1`, in [0, 1], and the figures of monitors. `forward` calls the model with
        a batch of the collator. Batch norm normalises views by their batch, as in training, so that losses can be
        compared with those of training; for images without augmentation it uses its running statistics.
        `shared_images`, on the first process only and if there are any, is the number of compared held-out images that
        are training images too. An embedding that is not finite raises FloatingPointError.
        """
        num_global_views = self.batches[0].views[GLOBAL_VIEWS].shape[1]
        sigreg, embeddings, projections = torch.zeros((), device=self.device), [], []
        with batch_statistics(model):
            for batch in self.batches:
                output = forward(batch.views)
                sigreg += batch.weight * output.sigreg_loss
                embeddings.append(output.embeddings[:num_global_views, : batch.num_new].float())
                projections.append(output.projections[:, : batch.num_new])
        joined = torch.cat(embeddings, dim=1)
        self._refuse_not_finite(joined.transpose(0, 1).flatten(1))
        prediction = prediction_loss(torch.cat(projections, dim=1), num_global_views)
        weight = model.config.sigreg_weight
        losses = torch.stack([(1 - weight) * prediction + weight * sigreg, prediction, sigreg])
        numbers = dict(zip(MEASURES[:3], losses.tolist(), strict=True))
        found = rank_and_spread(gather_for_loss(joined).transpose(0, 1).flatten(0, 1))
        numbers |= {name: found[name] for name in ("effective_rank", "embedding_spread")}
        if self.queries is not None:
            numbers |= self._measure_labelled(self.queries, forward)
        if self.num_shared:
            numbers["shared_images"] = self.num_shared
        return numbers

    def _refuse_not_finite(self, embeddings: torch.Tensor) -> None:
        """Raise FloatingPointError on all ranks if an image, a row of one of the ranks, has no finite embedding."""
        is_broken = ~embeddings.isfinite().all(1)
        counts = torch.tensor([is_broken.sum(), len(is_broken)], device=self.device)
        broken, number = total_over_ranks(counts).tolist()
        if broken:
            raise FloatingPointError(f"{broken} of {number} images of the evaluation have NaN or infinite embeddings")

    def _measure_labelled(self, images: _PlainImages, forward: Callable[..., Any]) -> dict[str, float]:
        """k-NN accuracy and the figures of monitors: means over the images of all ranks, each embedded once."""
        embeddings, labels = self._embed(images, forward), images.labels.to(self.device)
        values = {}
        if self.bank is not None:
            queries = LabelledEmbeddings(embeddings.cpu(), images.labels)
            values["knn_top1"] = self._nearest(self.bank, queries, forward) == labels
        for monitor in self._monitors:
            values |= monitor.measure_held_out(embeddings, labels)
        sums = [value.float().sum() for value in (*values.values(), torch.ones_like(labels))]
        *totals, number = total_over_ranks(torch.stack(sums)).tolist()
        return {name: total / number for name, total in zip(values, totals, strict=True)}

    def _nearest(self, images: _PlainImages, queries: LabelledEmbeddings, forward: Callable[..., Any]) -> torch.Tensor:
        """Class number of each query by k-NN among the training images of all ranks."""
        own = self._embed(images, forward), images.labels.to(self.device)
        bank, labels = (gather_for_loss(rows[None])[0].cpu() for rows in own)
        return nearest_vote(LabelledEmbeddings(bank, labels), queries).to(self.device)

    def _embed(self, images: _PlainImages, forward: Callable[..., Any]) -> torch.Tensor:
        assert self.processor is not None
        settings = self.processor.to_dict()
        mean = torch.tensor(settings["image_mean"], device=self.device)[:, None, None]
        std = torch.tensor(settings["image_std"], device=self.device)[:, None, None]
        embeddings = []
        # Parts of about a batch. The complete model is called, with one global view, because FSDP gathers weights only
        # in its forward pass.
        for part in images.pixels.tensor_split(max(1, len(images.pixels) // self.batch_size)):
            pixels = (part.to(self.device).float() * settings["rescale_factor"] - mean) / std
            embeddings.append(forward({GLOBAL_VIEWS: pixels[:, None]}).embeddings[0].float())
        own = torch.cat(embeddings)[: len(images.labels)]
        self._refuse_not_finite(own)
        return own
