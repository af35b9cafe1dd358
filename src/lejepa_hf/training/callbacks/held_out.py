"""HeldOutImages: a fixed sample on which a run is judged while it trains."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

import torch
from torch import nn

from ...data.batch import GLOBAL_VIEWS, tensors_of_views
from ...data.collator import MultiCropCollator
from ...data.decoding import DECODING_ERRORS, decode_image
from ...data.streaming import EndlessRows
from ...evaluation.embeddings.extraction import LabelledEmbeddings
from ...evaluation.pixel_values import to_pixel_values
from ...evaluation.protocols.knn import nearest_vote
from ...evaluation.rank import rank_and_spread
from ...model.batch_norm import batch_statistics
from ...system.distributed import stack_over_ranks, total_over_ranks

logger = logging.getLogger("lejepa_hf")

_BANK = 4  # training images for each held-out one, to find its neighbours among
_CHUNK = 64  # rows cut at a time


@dataclass
class _PlainImages:
    """Images as an evaluation sees them, without augmentation: `(N, C, H, W)` uint8, and their labels."""

    pixels: torch.Tensor
    labels: torch.Tensor


class HeldOutImages:
    """
    Held-out images and, where there are labels, training images, cut once and kept in memory as 8-bit pixels: at 224
    pixels 630 MB for 512 images, over all processes.

    Each rank holds as many images as any other and takes part in every forward pass, whatever wraps the model.

    Args:
        held_out: Dataset with the columns of the training set, see [`~data.streaming.EndlessRows`].
        train: The training set, whose images vote in k-NN.
        collator ([`MultiCropCollator`]): Cuts the views; its `label_column` is what k-NN judges by.
        processor (`ImageProcessor`, *optional*): Makes the plain view of an image; without it there is no k-NN.
        num_images (`int`): Held-out images over all ranks, at most; of the training set four times as many.
        batch_size (`int`): Of a rank, at least 2. SIGReg is larger for larger batches: that of training makes the
            losses comparable.
        seed (`int`): Which images, where there are more; the same views at every call.
        rank, world_size (`int`): This process, and their number.
        device (`torch.device`): Where the model is.

    Raises:
        ValueError: If there are fewer than 2 images in all, or fewer than one for each rank.
    """

    def __init__(
        self,
        held_out,
        train,
        collator: MultiCropCollator,
        processor,
        num_images: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ):
        self.batch_size, self.device, self.processor = max(2, batch_size), device, processor
        self._collator, self._seed, self._rank, self._world_size = collator, seed, rank, world_size
        self.batches = self._view_batches(held_out, num_images)
        self.bank, self.queries = None, None
        if collator.label_column is not None and processor is not None:
            self.queries = self._plain_images(held_out, num_images)
            self.bank = self._plain_images(train, _BANK * num_images)
            if self.queries is None or self.bank is None:
                logger.warning("`eval_knn_top1` is left out: too few images with a class number as label.")

    def _chunks(self, dataset, num_images: int) -> Iterator[list[dict]]:
        """This rank's share of a sample of the first epoch, shuffled: folders and shards come class by class."""
        rows = EndlessRows(
            dataset,
            batch_size=1,
            seed=self._seed,
            rank=self._rank,
            world_size=self._world_size,
            image_column=self._collator.image_column,
            shuffle_buffer_size=num_images,
        )
        first_epoch = takewhile(lambda row: row["epoch"] == 0, rows)
        own = islice(first_epoch, num_images // self._world_size)
        while chunk := list(islice(own, _CHUNK)):
            yield chunk

    def _fewest(self, number: int) -> int:
        """As many as every rank has."""
        return int(stack_over_ranks(torch.tensor(number, device=self.device)).min())

    def _view_batches(self, held_out, num_images: int) -> list[dict[str, torch.Tensor]]:
        parts = [self._collator(chunk) for chunk in self._chunks(held_out, num_images)]
        number = self._fewest(sum(len(part[GLOBAL_VIEWS]) for part in parts))
        if number * self._world_size < 2:
            raise ValueError(
                f"The held-out images are fewer than 2 or than the {self._world_size} processes: give more, or set "
                "`eval_strategy: 'no'`."
            )
        cut = [tensors_of_views(part) for part in parts]
        views = {name: torch.cat([part[name] for part in cut])[:number] for name in cut[0]}
        # Whole batches where there is one: SIGReg's scale follows the batch.
        size = min(number, self.batch_size)
        return [{name: of[i : i + size] for name, of in views.items()} for i in range(0, number - size + 1, size)]

    def _plain_images(self, dataset, num_images: int) -> _PlainImages | None:
        pixels, labels, views = [], [], self._collator.transform
        for chunk in self._chunks(dataset, num_images):
            images = []
            for row in chunk:
                label = row.get(self._collator.label_column)
                if not isinstance(label, int) or label < 0:
                    continue
                try:
                    value = row[self._collator.image_column]
                    images.append(decode_image(value, views.num_channels, views.pixel_range))
                    labels.append(label)
                except DECODING_ERRORS:
                    continue  # training counts broken images
            if images:
                # Normalised on the device: as floats they would take four times the memory.
                plain = {"do_rescale": False, "do_normalize": False}
                cut = to_pixel_values(images, self.processor, views.num_channels, **plain)
                pixels.append(cut.clamp(0, 255).round().to(torch.uint8))
        number = self._fewest(len(labels))
        if number * self._world_size < 2:
            return None
        return _PlainImages(torch.cat(pixels)[:number], torch.tensor(labels[:number]))

    def measure(self, model: nn.Module, forward: Callable, prepare: Callable) -> dict[str, float]:
        """
        Judge the model; call it in evaluation mode, without gradients, on all ranks.

        Views go through batch norm as in training, so that losses compare with its losses; images for k-NN do not.

        Args:
            model (`nn.Module`): What `forward` calls.
            forward (`Callable`): Arguments of [`LeJEPAForPreTraining`] -> its output, losses over all ranks included.
            prepare (`Callable`): A batch of the collator -> these arguments.

        Returns:
            `dict[str, float]`: `loss`, `prediction_loss` and `sigreg_loss`, means over batches; `effective_rank` and
            `embedding_spread` of global views, see [`~evaluation.rank.rank_and_spread`]; with labels `knn_top1`, in
            [0, 1]. The same on every rank.
        """
        losses, embeddings = [], []
        with batch_statistics(model):
            for batch in self.batches:
                output = forward(prepare(batch))
                losses.append(torch.stack([output.loss, output.prediction_loss, output.sigreg_loss]).float())
                embeddings.append(output.embeddings[: batch[GLOBAL_VIEWS].shape[1]].float())
        names = ("loss", "prediction_loss", "sigreg_loss")
        numbers = dict(zip(names, torch.stack(losses).mean(0).tolist(), strict=True))
        over_ranks = stack_over_ranks(torch.cat(embeddings, dim=1))  # (ranks, views, images, dimensions)
        found = rank_and_spread(over_ranks.transpose(0, 1).flatten(0, 2))
        numbers |= {name: found[name] for name in ("effective_rank", "embedding_spread")}
        if self.bank is not None and self.queries is not None:
            numbers["knn_top1"] = self._knn(forward)
        return numbers

    def _knn(self, forward: Callable) -> float:
        bank, queries = self._embed(self.bank, forward), self._embed(self.queries, forward)
        everyone = LabelledEmbeddings(
            stack_over_ranks(bank.embeddings).flatten(0, 1).cpu(),
            stack_over_ranks(bank.labels.to(self.device)).flatten(0, 1).cpu(),
        )
        hits = nearest_vote(everyone, LabelledEmbeddings(queries.embeddings.cpu(), queries.labels)) == queries.labels
        total, number = total_over_ranks(torch.tensor([hits.sum(), len(hits)], device=self.device)).tolist()
        return total / number

    def _embed(self, images: _PlainImages, forward: Callable) -> LabelledEmbeddings:
        mean = torch.tensor(self.processor.image_mean, device=self.device)[:, None, None]
        std = torch.tensor(self.processor.image_std, device=self.device)[:, None, None]
        number = len(images.labels)
        embeddings = []
        # Parts of about a batch, none of a single image, for which the losses would be undefined. Through the whole
        # model, as one global view: FSDP gathers weights in its forward pass only.
        for part in images.pixels.tensor_split(max(1, number // self.batch_size)):
            pixels = (part.to(self.device).float() * self.processor.rescale_factor - mean) / std
            embeddings.append(forward({GLOBAL_VIEWS: pixels[:, None]}).embeddings[0].float())
        return LabelledEmbeddings(torch.cat(embeddings), images.labels)
