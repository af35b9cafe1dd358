"""Classification by the whole encoder, trained on with a linear head."""

import copy
import logging
import math
import os
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ...data.decoding import DECODING_ERRORS, stored_size
from ...data.errors import DataError
from ...data.sources import ImageSource
from ...model.architecture import forward_kwargs
from ...model.pooling import pool
from ...system.distributed import is_first_rank, process_index, world_size
from ..embeddings.extraction import part_of
from ..embeddings.image_batches import image_batches
from ..feature_extractor import FeatureExtractor
from ..intervals import with_interval
from ..labelled_sources import labels_of
from ..metrics.top_k_accuracy import TopKAccuracy

logger = logging.getLogger("lejepa_hf")

LEARNING_RATES = (5e-5, 2e-4, 1e-3, 4e-3)
_BATCH, _LEAST_EPOCHS, _LEAST_STEPS = 64, 5, 200  # of the final fit; batches are those of all processes together
_TRIED_SHARE, _LEAST_TRIED, _MOST_TRIED = 0.25, 100, 1000  # steps for each learning rate that is tried
_MOST_ASIDE = 5000
_MOST_THREADS = 8
_SMALLEST_CROP = 0.7  # of the shorter side


def fine_tune(
    encoder,
    processor,
    train: ImageSource,
    test: ImageSource,
    learning_rates: Sequence[float] = LEARNING_RATES,
    num_epochs: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """
    A copy of the encoder and a linear layer on its embedding, trained by transformers' `Trainer`: AdamW with weight
    decay 0.05, batches of 64, warmup and cosine.

    Of several learning rates the one is taken that does best on a tenth of the training images (at most 5,000), set
    aside while a fit with each rate sees the others for a quarter of the steps (at least 100, at most 1,000); then all
    training images are fitted. Test images choose nothing.

    Training images are square crops of 70 to 100 % of the shorter side, which then go through the processor; there are
    no flips, which would make other classes of digits and writing. Nothing is stored. Several processes share each
    batch and the test images; each calls this.

    Args:
        encoder (`PreTrainedModel`): Stays as it is.
        processor (`ImageProcessor`): Makes pixel values.
        train ([`ImageSource`]): Map-style, with class numbers as labels.
        test ([`ImageSource`]): Measures the result; map-style.
        learning_rates (`Sequence[float]`, *optional*, defaults to 4 from 5e-5 to 4e-3): Peaks, of all weights.
        num_epochs (`int`, *optional*): Passes over the images. If missing, 5, of few images so many that there are 200
            steps.
        seed (`int`, *optional*, defaults to 0): Of the head, the order, the crops and the tenth.

    Returns:
        `dict[str, float]`: `eval_finetune_top1` and with at least five classes `eval_finetune_top5`, in [0, 1], and
        their intervals, see [`with_interval`]; in each process.

    Raises:
        DataError: If no image can be read.

    Source: arXiv 2511.08544 gives no fine-tuning recipe that could be repeated; all settings are ours.
    """
    labels = labels_of(train)
    num_classes = int(max(labels.max(), labels_of(test).max())) + 1
    steps_an_epoch = math.ceil(len(labels) / _BATCH)
    num_steps = (num_epochs or max(_LEAST_EPOCHS, math.ceil(_LEAST_STEPS / steps_an_epoch))) * steps_an_epoch
    order = np.random.default_rng(seed).permutation(len(labels))
    number_aside = min(len(order) // 10, _MOST_ASIDE)
    aside, others = (_rows_of(train, rows) for rows in (order[:number_aside], order[number_aside:]))
    rate = learning_rates[0]
    if len(learning_rates) > 1 and number_aside:
        found, num_tried = [], min(max(round(_TRIED_SHARE * num_steps), _LEAST_TRIED), _MOST_TRIED)
        for tried in learning_rates:
            classifier = _fit(encoder, processor, others, num_classes, tried, num_tried, seed)
            best, certainties, wanted = _predict(classifier, aside, 1)
            hits = sum(one == [label] for one, label in zip(best, wanted, strict=True))
            found.append((hits, sum(certainties)))
        rate = learning_rates[found.index(max(found))]
        if is_first_rank():
            logger.info(f"fine-tuning: learning rate {rate:g}, best of {len(found)} on {number_aside} training images")
    classifier = _fit(encoder, processor, train, num_classes, rate, num_steps, seed)
    best, _, wanted = _predict(classifier, test, min(5, num_classes))
    if not wanted:
        raise DataError(f"{test.name}: none of its images can be read.")
    results = {}
    for name, value in TopKAccuracy().compute(predictions=best, references=wanted).items():
        results |= with_interval(f"eval_finetune_{name}", value, len(wanted))
    return results


def _rows_of(source: ImageSource, rows: Sequence[int]) -> ImageSource:
    return replace(source, dataset=source.dataset.select(rows))


def _fit(
    encoder, processor, train: ImageSource, num_classes: int, learning_rate: float, num_steps: int, seed: int
) -> "_Classifier":
    with _global_rngs_kept(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        classifier = _Classifier(FeatureExtractor(copy.deepcopy(encoder), processor), num_classes)
        arguments = TrainingArguments(
            folder, max_steps=num_steps, learning_rate=learning_rate, weight_decay=0.05, warmup_steps=0.1,
            lr_scheduler_type="cosine", seed=seed, report_to="none", save_strategy="no", logging_strategy="no",
            remove_unused_columns=False, use_cpu=encoder.device.type == "cpu",
            ddp_find_unused_parameters=True,  # a pooler, say, that the embedding is not of
        )  # fmt: skip
        # Without a launcher the Trainer takes all GPUs there are.
        arguments.per_device_train_batch_size = max(1, _BATCH // (world_size() * max(1, arguments.n_gpu)))
        trainer = Trainer(classifier, arguments, _CroppedImages(classifier.extractor, train), train.dataset)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(_BarAlone)
        trainer.train()
    return classifier.eval()


def _predict(classifier: "_Classifier", source: ImageSource, depth: int) -> tuple[list, list[float], list[int]]:
    """Of all images that can be read: the `depth` best classes, the log-probability of the right one, the label."""
    part = part_of(source, process_index(), world_size())
    best, certainties, wanted, extractor = [], [], [], classifier.extractor
    for batch in image_batches(part, _BATCH, extractor.decode, extractor.preprocess, "fine-tuned"):
        if batch.images is not None:
            labels = torch.tensor(batch.labels)
            with torch.inference_mode():
                logits = classifier(batch.images.to(classifier.head.weight.device))["logits"].float().cpu()
            best += logits.topk(depth).indices.tolist()
            certainties += (-F.cross_entropy(logits, labels, reduction="none")).tolist()
            wanted += batch.labels
    return gather_object(best), gather_object(certainties), gather_object(wanted)


class _Classifier(nn.Module):
    """The encoder, its trained embedding, a linear layer."""

    def __init__(self, extractor: FeatureExtractor, num_classes: int):
        super().__init__()
        self.encoder, self.extractor = extractor.encoder, extractor
        self.head = nn.Linear(extractor.try_one()[1], num_classes).to(self.encoder.device)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        outputs = self.encoder(pixel_values.to(self.encoder.dtype), **forward_kwargs(self.encoder))
        embeddings = pool(outputs, self.extractor.resolved_pooling(outputs))
        logits = self.head(embeddings.to(self.head.weight.dtype))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class _CroppedImages:
    """Rows of a source -> a batch of random crops, decoded by a few threads; broken images are left out."""

    def __init__(self, extractor: FeatureExtractor, source: ImageSource):
        self._extractor, self._source = extractor, source
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        # Drawn here: threads would draw in any order.
        crops = list(self._threads.map(self._crop, rows, torch.rand(len(rows), 3).tolist()))
        kept = [number for number, image in enumerate(crops) if image is not None]
        if not kept:
            raise DataError(f"{self._source.name}: all {len(rows)} images of a batch are broken.")
        labels = torch.tensor([rows[number][self._source.label_column] for number in kept])
        return {"pixel_values": self._extractor.preprocess([crops[number] for number in kept]), "labels": labels}

    def _crop(self, row: dict, place: list[float]):
        try:
            return square_crop(self._extractor.decode(row[self._source.image_column]), *place)
        except DECODING_ERRORS as error:
            logger.warning(f"{self._source.name}: a broken image is left out: {error}")
            return None


def square_crop(image, share: float, across: float, down: float):
    """
    Args:
        image (`PIL.Image.Image` or `np.ndarray`): Of any shape and number of channels.
        share (`float`): From the smallest side, 0, to the image's shorter one, 1.
        across, down (`float`): From one border, 0, to the other, 1.

    Returns:
        The same type: a square of the image.
    """
    width, height = stored_size(image)
    side = max(1, round(min(width, height) * (_SMALLEST_CROP + (1 - _SMALLEST_CROP) * share)))
    left, top = round(across * (width - side)), round(down * (height - side))
    if isinstance(image, np.ndarray):
        return image[top : top + side, left : left + side]
    return image.crop((left, top, left + side, top + side))


class _BarAlone(ProgressCallback):
    """The Trainer's progress bar without its logs, which go to where the results go."""

    def on_log(self, *arguments, **settings):
        pass


@contextmanager
def _global_rngs_kept():
    """The Trainer seeds them all."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
