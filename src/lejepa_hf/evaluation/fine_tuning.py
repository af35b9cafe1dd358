"""Classification by the whole encoder, trained on with a linear head."""

import copy
import logging
import math
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..backbone.facts import forward_kwargs
from ..backbone.pooling import pool
from ..data.decoding import DECODING_ERRORS, stored_size
from ..data.errors import DataError
from ..data.sources import ImageSource
from ..distributed import world_size
from .accuracy_interval import with_interval
from .feature_extractor import FeatureExtractor
from .image_batches import image_batches
from .labelled_sources import labels_of
from .top_k_accuracy import TopKAccuracy

logger = logging.getLogger("lejepa_hf")

_BATCH, _LEAST_EPOCHS, _LEAST_STEPS = 64, 5, 200
_MOST_THREADS = 8
_SMALLEST_CROP = 0.7  # of the shorter side


def fine_tune(
    encoder,
    processor,
    train: ImageSource,
    test: ImageSource,
    learning_rate: float = 5e-4,
    num_epochs: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """
    A copy of the encoder and a linear layer on its embedding, trained by transformers' `Trainer`: AdamW with weight
    decay 0.05, batches of 64, warmup and cosine.

    Training images are square crops of 70 to 100 % of the shorter side, which then go through the processor; there are
    no flips, which would make other classes of digits and writing. Nothing is stored.

    Args:
        encoder (`PreTrainedModel`): Stays as it is.
        processor (`ImageProcessor`): Makes pixel values.
        train ([`ImageSource`]): Map-style, with class numbers as labels.
        test ([`ImageSource`]): Measures the result.
        learning_rate (`float`, *optional*, defaults to 5e-4): Peak, of all weights. It is not swept; large encoders
            want less, 1e-4 or 5e-5.
        num_epochs (`int`, *optional*): Passes over the images. If missing, 5, of few images so many that there are 200
            steps.
        seed (`int`, *optional*, defaults to 0): Of the head, the order and the crops.

    Returns:
        `dict[str, float]`: `eval_finetune_top1` and with at least five classes `eval_finetune_top5`, in [0, 1], and
        their intervals, see [`with_interval`].

    Raises:
        ValueError: If several processes run.
        DataError: If no image can be read.

    Source: arXiv 2511.08544 gives no fine-tuning recipe that could be repeated; all settings are ours.
    """
    check_one_process()
    labels, test_labels = labels_of(train), labels_of(test)
    num_classes = int(max(labels.max(), test_labels.max())) + 1
    extractor = FeatureExtractor(copy.deepcopy(encoder), processor)
    steps_an_epoch = math.ceil(len(labels) / _BATCH)
    num_epochs = num_epochs or max(_LEAST_EPOCHS, math.ceil(_LEAST_STEPS / steps_an_epoch))
    logger.info(f"fine-tuning: {num_epochs} epochs of {len(labels)} images")
    with _global_rngs_kept(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        model = _Classifier(extractor, num_classes)
        arguments = TrainingArguments(
            folder, num_train_epochs=num_epochs, per_device_train_batch_size=_BATCH, learning_rate=learning_rate,
            weight_decay=0.05, warmup_steps=0.1, lr_scheduler_type="cosine", seed=seed, report_to="none",
            save_strategy="no", logging_strategy="no", remove_unused_columns=False,
            use_cpu=encoder.device.type == "cpu",
        )  # fmt: skip
        trainer = Trainer(model, arguments, _CroppedImages(extractor, train), train.dataset)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(_BarAlone)
        trainer.train()
    metric, depth, number = TopKAccuracy(), min(5, num_classes), 0
    model.eval()
    for batch in image_batches(test, _BATCH, extractor.decode, extractor.preprocess, "fine-tuned"):
        if batch.images is not None:
            with torch.inference_mode():
                best = model(batch.images.to(encoder.device))["logits"].topk(depth).indices
            metric.add_batch(predictions=best.tolist(), references=batch.labels)
            number += len(batch.labels)
    if not number:
        raise DataError(f"{test.name}: none of its images can be read.")
    results = {}
    for name, value in metric.compute().items():
        results |= with_interval(f"eval_finetune_{name}", value, number)
    return results


def check_one_process() -> None:
    """
    Raises:
        ValueError: If several run.
    """
    if world_size() > 1:
        raise ValueError(
            f"`protocols` fine-tune runs in one process, got {world_size()}: start it without a launcher."
        )


class _Classifier(nn.Module):
    """The encoder, its trained embedding, a linear layer."""

    def __init__(self, extractor: FeatureExtractor, num_classes: int):
        super().__init__()
        self.encoder, self._extractor = extractor.encoder, extractor
        self.head = nn.Linear(extractor.try_one()[1], num_classes).to(self.encoder.device)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        outputs = self.encoder(pixel_values.to(self.encoder.dtype), **forward_kwargs(self.encoder))
        embeddings = pool(outputs, self._extractor.resolved_pooling(outputs))
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
