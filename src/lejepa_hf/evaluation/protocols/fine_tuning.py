"""Classification by the whole encoder, fine-tuned with a linear head."""

import copy
import logging
import math
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import BaseImageProcessor, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ...data.decoding import DECODING_ERRORS, Pixels, stored_size
from ...data.errors import DataError, described
from ...data.sources import ImageSource
from ...model.architecture import forward_kwargs
from ...system.devices import cores_of_this_process
from ...system.distributed import is_first_rank, process_index, world_size
from ..classification import hits_and_certainty
from ..embeddings.extraction import part_of
from ..embeddings.image_batches import image_batches
from ..encoder_loading import LoadedEncoder
from ..feature_extractor import FeatureExtractor
from ..labelled_sources import count_classes, map_style, select_rows
from .augmented_probe import random_crop
from .fine_tuning_recipe import LONG, QUICK, FineTuningRecipe, drop_paths, groups_by_layer, mixed
from .protocol import OfClasses, OnImages, require_positive

logger = logging.getLogger("lejepa_hf")

LEARNING_RATES = (5e-5, 2e-4, 1e-3, 4e-3)
_BATCH = 64  # of all processes together
_WEIGHT_DECAY = 0.05
_TRIED_SHARE, _LEAST_TRIED, _MOST_TRIED = 0.25, 100, 1000  # steps for each learning rate that is tried
_MOST_ASIDE = 5000
_MOST_THREADS = 8
_SMALLEST_CROP = 0.7  # of the shorter side
_SEED = 0  # of the head, the order, the crops and the images set aside


@dataclass(frozen=True)
class FineTune(OfClasses, OnImages):
    """
    Train a copy of the encoder and a linear layer on its embedding by transformers' `Trainer`: AdamW with weight decay
    0.05, batches of 64, warmup and cosine.

    Without a learning rate, each of four is tried for a quarter of the steps (at least 100, at most 1,000), while a
    tenth of the training images (at most 5,000) is set aside. The rate that does best on that tenth then fits all
    training images. Test images choose nothing.

    Training images are square crops of 70 to 100 % of the shorter side, which then go through the processor. There are
    no flips, which turn digits and letters into others. Nothing is stored. Several processes share each batch and the
    test images.

    Args:
        learning_rate (`float`, *optional*): Peak learning rate of encoder and head. If missing, the best of four from
            5e-5 to 4e-3.
        num_epochs (`int`, *optional*): Passes over the images. If missing, 5, or as many as make 200 steps.

    Source: all settings are ours; arXiv 2511.08544 has no fine-tuning recipe that could be repeated.
    """

    name = "fine-tune"
    shared_by_processes = True
    recipe: ClassVar[FineTuningRecipe] = QUICK
    learning_rate: float | None = None
    num_epochs: int | None = None

    def __post_init__(self) -> None:
        require_positive("learning_rate", self.learning_rate)
        require_positive("num_epochs", self.num_epochs)

    def run(
        self, encoder: PreTrainedModel, processor: BaseImageProcessor, train: ImageSource, test: ImageSource
    ) -> dict[str, float]:
        """
        `eval_finetune_top1` and with at least five classes `eval_finetune_top5`, and so on for other metrics; every
        process returns them.
        """
        num_classes = count_classes(*(np.asarray(map_style(source)[source.label_column]) for source in (train, test)))
        loaded, number = (encoder, processor), len(map_style(train))
        if self.recipe.has_flips:
            extractor = FeatureExtractor(*loaded)
            extractor.try_as_they_are(self.name, max(extractor.try_pixels().shape[-2:]))
        steps_an_epoch = math.ceil(number / _BATCH)
        least_epochs = max(self.recipe.num_epochs, math.ceil(self.recipe.least_steps / steps_an_epoch))
        num_steps = (self.num_epochs or least_epochs) * steps_an_epoch
        rate = self.learning_rate or _best_rate(loaded, train, num_classes, num_steps, self.recipe)
        classifier = _fit(loaded, train, num_classes, rate, num_steps, self.recipe)
        predicted = _predict(classifier, test)
        if not predicted:
            raise DataError(f"{test.name}: none of its images can be read.")
        test.num_read = len(predicted)
        logits, labels = _joined(predicted)
        predictions = self.predictions(labels)
        predictions.add(logits.softmax(1))
        return predictions.figures(f"eval_{self.name.replace('fine-tune', 'finetune').replace('-', '_')}")


@dataclass(frozen=True)
class FineTuneLong(FineTune):
    """
    [`FineTune`] for 100 passes, as papers fine-tune: random crops and flips, mixup 0.8 or CutMix 1.0, label smoothing
    0.1, drop path 0.1, learning rates that fall by 0.65 from block to block, no weight decay of vectors.

    Args:
        learning_rate (`float`, *optional*): Peak learning rate of the head. If missing, the best of four.
        num_epochs (`int`, *optional*): Passes over the images. If missing, 100, or as many as make 200 steps.

    Source: MAE, arXiv 2111.06377, and its published code for ViT-B. Ours: batches of 64 instead of 1,024, the sweep of
    learning rates, neither RandAugment nor random erasing.
    """

    name = "fine-tune-long"
    recipe: ClassVar[FineTuningRecipe] = LONG


def _best_rate(
    loaded: LoadedEncoder, train: ImageSource, num_classes: int, num_steps: int, recipe: FineTuningRecipe
) -> float:
    """The learning rate that does best on a tenth of the training images; the first one if they are fewer than ten."""
    order = np.random.default_rng(_SEED).permutation(len(map_style(train)))
    number_aside = min(len(order) // 10, _MOST_ASIDE)
    if not number_aside:
        return LEARNING_RATES[0]
    aside, others = (select_rows(train, rows) for rows in (order[:number_aside], order[number_aside:]))
    num_tried = min(max(round(_TRIED_SHARE * num_steps), _LEAST_TRIED), _MOST_TRIED)

    def success_of(rate: float) -> tuple[int, float]:
        predicted = _predict(_fit(loaded, others, num_classes, rate, num_tried, recipe), aside)
        return hits_and_certainty(*_joined(predicted)) if predicted else (0, 0.0)

    rate = max(LEARNING_RATES, key=success_of)
    if is_first_rank():
        number = len(LEARNING_RATES)
        logger.info(f"fine-tuning: learning rate {rate:g}, best of {number} on {number_aside} training images")
    return rate


def _fit(
    loaded: LoadedEncoder,
    train: ImageSource,
    num_classes: int,
    learning_rate: float,
    num_steps: int,
    recipe: FineTuningRecipe,
) -> "_Classifier":
    with _global_rngs_kept(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(_SEED)
        classifier = _Classifier(FeatureExtractor(*copy.deepcopy(loaded)), num_classes)
        arguments = TrainingArguments(
            folder, max_steps=num_steps, learning_rate=learning_rate, weight_decay=_WEIGHT_DECAY,
            warmup_steps=recipe.warmup,
            lr_scheduler_type="cosine", seed=_SEED, report_to="none", save_strategy="no", logging_strategy="no",
            remove_unused_columns=False, use_cpu=loaded[0].device.type == "cpu",
            ddp_find_unused_parameters=True,  # such as those of a pooler that the embedding does not use
        )  # fmt: skip
        # Without a launcher the Trainer uses all GPUs there are.
        arguments.per_device_train_batch_size = max(1, _BATCH // (world_size() * max(1, arguments.n_gpu)))
        collator = _CroppedImages(classifier.extractor, train, num_classes, recipe)
        optimizer: torch.optim.Optimizer | None = None
        if recipe.layer_decay != 1:
            groups = groups_by_layer(
                classifier.encoder, classifier.head, learning_rate, recipe.layer_decay, _WEIGHT_DECAY
            )
            optimizer = torch.optim.AdamW(groups)
        if recipe.drop_path_rate:
            drop_paths(classifier.encoder, recipe.drop_path_rate, classifier.extractor.try_pixels())
        trainer = Trainer(classifier, arguments, collator, map_style(train), optimizers=(optimizer, None))
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.add_callback(_BarAlone)
        trainer.train()
    return classifier.eval()


def _predict(classifier: "_Classifier", source: ImageSource) -> list[tuple[torch.Tensor, int]]:
    """For each image that can be read: the logits of its classes, its label."""
    part, extractor = part_of(source, process_index(), world_size()), classifier.extractor
    found: list[tuple[torch.Tensor, int]] = []
    decode = partial(extractor.decode_reduced, max_image_pixels=source.max_image_pixels)
    for batch in image_batches(part, _BATCH, decode, extractor.batch, "fine-tuned"):
        if batch.images is not None:
            with torch.no_grad():
                logits = classifier(batch.images.to(classifier.head.weight.device))["logits"].float().cpu()
            found += zip(logits.unbind(), batch.labels, strict=True)
    return gather_object(found)


def _joined(predicted: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(num_images, num_classes)` and labels `(num_images,)`."""
    return torch.stack([logits for logits, _ in predicted]), torch.tensor([label for _, label in predicted])


class _Classifier(nn.Module):
    """The encoder, its trained embedding, a linear layer."""

    def __init__(self, extractor: FeatureExtractor, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.extractor = extractor.encoder, extractor
        self.head = nn.Linear(extractor.try_one()[1], num_classes).to(self.encoder.device)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        outputs = self.encoder(pixel_values.to(self.encoder.dtype), **forward_kwargs(self.encoder))
        logits = self.head(self.extractor.embedding(outputs))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class _CroppedImages:
    """Rows of a source -> a batch of random crops, decoded by a few threads; broken images are left out."""

    def __init__(
        self, extractor: FeatureExtractor, source: ImageSource, num_classes: int, recipe: FineTuningRecipe
    ) -> None:
        self._extractor, self._source, self._num_classes, self._recipe = extractor, source, num_classes, recipe
        self._side = max(extractor.try_pixels().shape[-2:])
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, cores_of_this_process()))

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        places = torch.rand(len(rows), 3).tolist()  # drawn here, since threads would draw in any order
        crops = list(self._threads.map(self._crop, rows, places))
        kept = [(crop, row) for crop, row in zip(crops, rows, strict=True) if crop is not None]
        if not kept:
            raise DataError(f"{self._source.name}: all {len(rows)} images of a batch are broken.")
        labels = torch.tensor([row[self._source.label_column] for _, row in kept])
        pixels = self._extractor.batch([crop for crop, _ in kept])
        pixels, probabilities = mixed(pixels, labels, self._num_classes, self._recipe)
        return {"pixel_values": pixels, "labels": probabilities}

    def _crop(self, row: dict, place: list[float]) -> Pixels | torch.Tensor | None:
        value = row[self._source.image_column]
        try:
            image = self._extractor.decode(value, self._source.max_image_pixels)
            if self._recipe.has_flips:
                return self._extractor.as_they_are([random_crop(image, self._side, round(place[0] * 2**31))])
            return self._extractor.reduced(square_crop(image, *place))
        except DECODING_ERRORS as error:
            logger.warning(f"{self._source.name}: a broken image is left out: {described(error, value)}")
            return None


def square_crop(image: Image.Image | np.ndarray, share: float, across: float, down: float) -> Image.Image | np.ndarray:
    """
    Cut a square out of an image. `share` sets its side, from 0, 70 % of the image's shorter side, to 1, all of it;
    `across` and `down` set its place, from 0, the left or upper border, to 1, the right or lower one.
    """
    width, height = stored_size(image)
    side = max(1, round(min(width, height) * (_SMALLEST_CROP + (1 - _SMALLEST_CROP) * share)))
    left, top = round(across * (width - side)), round(down * (height - side))
    if isinstance(image, np.ndarray):
        return image[top : top + side, left : left + side]
    # Not by `crop`, which PIL refuses above twice its own limit.
    return image.resize((side, side), Image.Resampling.NEAREST, (left, top, left + side, top + side))


class _BarAlone(ProgressCallback):
    """The Trainer's progress bar without its logs, which it would print among the results."""

    def on_log(self, *arguments: object, **settings: object) -> None:
        """Log nothing."""


@contextmanager
def _global_rngs_kept() -> Iterator[None]:
    """Restore the global random states, all of which the Trainer seeds."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
