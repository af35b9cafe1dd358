"""NearestImages: images of a source whose embeddings are most similar to that of another image."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ...data.decoding import Encoded
from ...data.sources import ImageSource
from ..feature_extractor import FeatureExtractor
from ..protocols.knn import nearest_neighbours
from .extraction import embedded_batches


class Neighbour(NamedTuple):
    """A similar image, undecoded, the similarity of its embedding, and the name or number of its class."""

    value: Encoded
    cosine: float
    label: str | None


class NearestImages:
    """A bank of the images in some rows of a source, embedded; a ValueError if none of them can be read."""

    def __init__(self, extractor: FeatureExtractor, source: ImageSource, rows: list, batch_size: int = 64) -> None:
        self._extractor, self._source = extractor, source
        self._rows: list[dict] = []
        embeddings = []
        for batch, of_batch in embedded_batches(extractor, replace(source, dataset=rows), batch_size):
            self._rows += [rows[number] for number in batch.numbers]
            embeddings.append(of_batch)
        if not self._rows:
            raise ValueError(f"`dataset` {source.name!r} has no image that can be read among {len(rows)} of its rows.")
        self._embeddings = torch.cat([of_batch for of_batch in embeddings if len(of_batch)])

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, image: Image.Image | np.ndarray, num_images: int = 12) -> list[Neighbour]:
        """Find the images nearest to one from the extractor's `decode`, the nearest first."""
        embedding = self._extractor(self._extractor.preprocess([image]))
        (cosines,), (nearest,) = nearest_neighbours(self._embeddings, embedding, min(num_images, len(self)))
        return [
            Neighbour(self._rows[number][self._source.image_column], cosine, self.label_of(self._rows[number]))
            for cosine, number in zip(cosines.tolist(), nearest.tolist(), strict=True)
        ]

    def values(self, num_images: int) -> list:
        """Some of the images, undecoded."""
        return [row[self._source.image_column] for row in self._rows[:num_images]]

    def label_of(self, row: dict) -> str | None:
        """The name of a row's class, or its label if classes have no names."""
        label = row[self._source.label_column] if self._source.label_column is not None else None
        if label is None or label == -1:  # `datasets` marks missing labels so
            return None
        return self._source.class_names[label] if self._source.class_names else str(label)
