"""NearestImages: images of a source whose embeddings are most similar to that of another image."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from ...data.decoding import Encoded
from ...data.sources import ImageSource
from ..feature_extractor import FeatureExtractor
from ..protocols.knn import nearest_neighbours
from .extraction import embedded_batches


@dataclass
class Neighbour:
    """
    A similar image.

    Args:
        value: Undecoded image, for `decode` of [`FeatureExtractor`].
        cosine (`float`): Similarity of the embeddings.
        label (`str`, *optional*): Name of its class, or its number.
    """

    value: Encoded
    cosine: float
    label: str | None


class NearestImages:
    """
    A bank of embedded images.

    Args:
        extractor ([`FeatureExtractor`]): Embeds them, and the images whose neighbours are wanted.
        source ([`ImageSource`]): Source of the images.
        rows (`list[dict]`): Some rows of the source.
        batch_size (`int`, *optional*, defaults to 64): Images of a forward pass.

    Raises:
        ValueError: If none of the images can be read.
    """

    def __init__(
        self, extractor: FeatureExtractor, source: ImageSource, rows: list[dict], batch_size: int = 64
    ) -> None:
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
        """
        Find the nearest images.

        Args:
            image (`PIL.Image.Image` or `np.ndarray`): Image from the extractor's `decode`.
            num_images (`int`, *optional*, defaults to 12): Number of neighbours, at most all.

        Returns:
            `list[Neighbour]`: Neighbours, the nearest first.
        """
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
