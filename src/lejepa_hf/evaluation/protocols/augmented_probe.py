"""AugmentedProbe: heads on a frozen encoder that see each training image in another crop each time."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from torch import nn
from torch.nn import functional as F
from transformers import BaseImageProcessor, PreTrainedModel, get_cosine_schedule_with_warmup

from ...data.decoding import Encoded, Pixels, resized, stored_size
from ...data.errors import DataError
from ...data.multi_crop import random_boxes
from ...data.sources import ImageSource
from ..classification import hits_and_certainty
from ..embeddings.extraction import embedded_batches
from ..embeddings.image_batches import image_batches
from ..feature_extractor import FeatureExtractor
from ..labelled_sources import count_classes, labels_of, map_style, select_rows
from .protocol import OfClasses, OnImages, passes_and_steps, require_positive

logger = logging.getLogger("lejepa_hf")

_LEAST_STEPS, _PASSES = 1000, 10
_BATCH, _BATCH_OF_MANY, _MANY = 256, 1024, 100_000
_SCALE, _ASPECT_RATIO = (0.08, 1.0), [3 / 4, 4 / 3]
_SEED = 0  # of the order, the crops, the flips, the tenth and the heads


class Candidate(NamedTuple):
    """A head to be tried: what makes it, its peak learning rate, and how a log line calls both."""

    make: Callable[[], nn.Module]
    learning_rate: float
    name: str


@dataclass(frozen=True)
class AugmentedProbe(OfClasses, OnImages):
    """
    Train several heads at once on what a frozen encoder makes of random crops and flips, take the one that does best
    on a tenth of the training images that was set aside, and train it again on all of them. Test images choose
    nothing, and are resized and cropped by the processor.

    Crops have 8 to 100 % of the area and sides of 3:4 to 4:3; half of them are flipped. Batches have 256 images, or
    1,024 from 100,000 training images on.

    Args:
        num_epochs (`int`, *optional*): Passes over the images. If missing, 10, or as many as make 1,000 steps.
    """

    num_epochs: int | None = None

    def __post_init__(self) -> None:
        require_positive("num_epochs", self.num_epochs)

    @abstractmethod
    def features(self, extractor: FeatureExtractor, pixels: torch.Tensor) -> torch.Tensor:
        """What heads get: features `(batch_size, ...)`, fp32, on the encoder's device."""

    @abstractmethod
    def candidates(
        self, extractor: FeatureExtractor, pixels: torch.Tensor, num_classes: int, batch_size: int
    ) -> list[Candidate]:
        """The heads to be tried, for features of pixel values like these."""

    @abstractmethod
    def optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        """The optimizer of all heads, each of which is a group with its learning rate."""

    @abstractmethod
    def warmup(self, num_steps: int) -> int:
        """Number of steps in which learning rates rise to their peaks, before they fall to 0 along a cosine."""

    def run(
        self, encoder: PreTrainedModel, processor: BaseImageProcessor, train: ImageSource, test: ImageSource
    ) -> dict[str, float]:
        """`eval_<name>_top1`, and with at least five classes `eval_<name>_top5`, and so on for other metrics."""
        extractor, number = FeatureExtractor(encoder, processor), len(map_style(train))
        num_classes = count_classes(*(np.asarray(labels_of(source)) for source in (train, test)))
        grey = extractor.try_pixels()
        extractor.try_as_they_are(self.name, max(grey.shape[-2:]))
        batch_size = min(number, _BATCH if number < _MANY else _BATCH_OF_MANY)
        candidates = self.candidates(extractor, grey, num_classes, batch_size)
        order = np.random.default_rng(_SEED).permutation(number)
        aside, others = order[: number // 10], order[number // 10 :]
        chosen = candidates[0]
        if len(candidates) > 1 and len(aside):
            heads = self._fit(extractor, select_rows(train, others), candidates, batch_size)
            found = _hits_and_certainty(heads, self._logits(extractor, select_rows(train, aside), heads))
            chosen = candidates[found.index(max(found))]
            logger.info(f"{self.name}: {chosen.name}, best of {len(heads)} on {len(aside)} training images")
        (head,) = self._fit(extractor, train, [chosen], batch_size)
        labels, probabilities = [], []
        for of_batch, (logits,) in self._logits(extractor, test, [head]):
            labels.append(of_batch)
            probabilities.append(logits.softmax(1))
        if not labels:
            raise DataError(f"{test.name}: none of its images can be read.")
        test.num_read = sum(map(len, labels))
        predictions = self.predictions(torch.cat(labels))
        predictions.add(torch.cat(probabilities))
        return predictions.figures(f"eval_{self.name.replace('-', '_')}")

    def _fit(
        self, extractor: FeatureExtractor, source: ImageSource, candidates: Sequence[Candidate], batch_size: int
    ) -> list[nn.Module]:
        """Heads that see the same crops of these images, each with its own learning rate."""
        number = len(map_style(source))
        num_epochs, num_steps = passes_and_steps(number, batch_size, self.num_epochs, _PASSES, _LEAST_STEPS)
        device = extractor.encoder.device
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            heads = [candidate.make().to(device) for candidate in candidates]
        groups = [
            {"params": list(head.parameters()), "lr": candidate.learning_rate}
            for head, candidate in zip(heads, candidates, strict=True)
        ]
        optimizer = self.optimizer(groups)
        schedule = get_cosine_schedule_with_warmup(optimizer, self.warmup(num_steps), num_steps)
        for pixels, labels in _random_crops(extractor, source, num_epochs, batch_size, self.name):
            features, labels = self.features(extractor, pixels), labels.to(device)
            if bad := int((~features.flatten(1).isfinite().all(1)).sum()):
                raise ValueError(
                    f"`protocols` {self.name}: {bad:,} of {len(features):,} images of a batch of {source.name!r} have "
                    "NaN or infinite features, on which nothing can be fitted: use another checkpoint of the encoder."
                )
            optimizer.zero_grad()
            for head in heads:  # one after the other, since what attention keeps for backward is large
                F.cross_entropy(head(features), labels).backward()
            optimizer.step()
            schedule.step()
        return [head.eval() for head in heads]

    def _logits(
        self, extractor: FeatureExtractor, source: ImageSource, heads: Sequence[nn.Module]
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Labels, and each head's logits, of the images that can be read, on the host, in batches."""

        def logits_of(pixels: torch.Tensor) -> torch.Tensor:
            features = self.features(extractor, pixels)
            with torch.no_grad():
                return torch.stack([head(features).float() for head in heads], dim=1)

        for batch, found in embedded_batches(extractor, source, _BATCH, embed=logits_of):
            if batch.numbers:
                yield torch.tensor(batch.labels), list(found.unbind(1))


def _random_crops(
    extractor: FeatureExtractor, source: ImageSource, num_epochs: int, batch_size: int, name: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pixel values and labels of batches, each image once an epoch; broken ones are left out."""
    rng, number = np.random.default_rng([_SEED, 1]), len(map_style(source))
    side = max(extractor.try_pixels().shape[-2:])
    shuffled = select_rows(source, np.concatenate([rng.permutation(number) for _ in range(num_epochs)]))
    columns = source.image_column, str(source.label_column)
    rows = (
        {"drawn": (row[columns[0]], place), columns[1]: row[columns[1]]}
        for place, row in enumerate(map_style(shuffled).select_columns(list(columns)))
    )

    def decode(drawn: tuple[Encoded, int]) -> Pixels:
        value, place = drawn
        return random_crop(extractor.decode(value, source.max_image_pixels), side, place)

    drawn = replace(shuffled, image_column="drawn")
    for batch in image_batches(drawn, batch_size, decode, extractor.as_they_are, name, rows):
        if batch.broken:
            reason = next(iter(batch.broken.values()))
            logger.warning(f"{source.name}: a broken image is left out: {reason}")
        if batch.images is not None:
            yield batch.images, torch.tensor(batch.labels)


def random_crop(image: Pixels, side: int, number: int) -> Pixels:
    """
    A square of `side` pixels from 8 to 100 % of the area of a decoded image, with sides of 3:4 to 4:3 there, flipped
    or not. `number`, from 0 on, decides which.
    """
    rng = np.random.default_rng([_SEED, 2, number])
    (box,) = random_boxes(rng, 1, *stored_size(image), _SCALE, _ASPECT_RATIO).tolist()
    crop = resized(image, (side, side), tuple(box))
    if rng.random() < 0.5:
        return crop
    return np.ascontiguousarray(crop[:, ::-1]) if isinstance(crop, np.ndarray) else ImageOps.mirror(crop)


def _hits_and_certainty(
    heads: Sequence[nn.Module], batches: Iterator[tuple[torch.Tensor, list[torch.Tensor]]]
) -> list[tuple[int, float]]:
    """[`hits_and_certainty`] of each head over all batches."""
    found = [(0, 0.0)] * len(heads)
    for labels, of_heads in batches:
        of_batch = [hits_and_certainty(logits, labels) for logits in of_heads]
        found = [(one[0] + other[0], one[1] + other[1]) for one, other in zip(found, of_batch, strict=True)]
    return found
