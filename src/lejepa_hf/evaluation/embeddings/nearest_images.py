"""NearestImages: the images of a source whose embeddings are most similar to that of another image."""

from dataclasses import dataclass, replace

import torch

from ...data.sources import ImageSource
from ..feature_extractor import FeatureExtractor
from ..protocols.knn import nearest_neighbours
from .extraction import embedded_batches


@dataclass
class Neighbour:
    """
    Args:
        value: The image as its row holds it, for [`FeatureExtractor`]'s `decode`.
        cosine (`float`): Similarity of the embeddings.
        label (`str`, *optional*): Name of its class, or its number.
    """

    value: object
    cosine: float
    label: str | None


class NearestImages:
    """
    A bank of embedded images.

    Args:
        extractor ([`FeatureExtractor`]): Embeds them, and the images whose neighbours are asked for.
        source ([`ImageSource`]): Where they come from.
        rows (`list[dict]`): Some of the source's, see [`~data.sampling.some_rows`].
        batch_size (`int`, *optional*, defaults to 64): Images a forward.

    Raises:
        ValueError: If no image of them can be read.
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

    def __call__(self, image, num_images: int = 12) -> list[Neighbour]:
        """
        Args:
            image: From the extractor's `decode`.
            num_images (`int`, *optional*, defaults to 12): How many neighbours, at most all.

        Returns:
            `list[Neighbour]`: The nearest first.
        """
        embedding = self._extractor(self._extractor.preprocess([image]))
        (cosines,), (nearest,) = nearest_neighbours(self._embeddings, embedding, min(num_images, len(self)))
        return [
            Neighbour(self._rows[number][self._source.image_column], cosine, self.label_of(self._rows[number]))
            for cosine, number in zip(cosines.tolist(), nearest.tolist(), strict=True)
        ]

    def values(self, num_images: int) -> list:
        """Some of the images, as their rows hold them."""
        return [row[self._source.image_column] for row in self._rows[:num_images]]

    def label_of(self, row: dict) -> str | None:
        """The name of a row's class; its label as it is where classes have no names."""
        label = row[self._source.label_column] if self._source.label_column is not None else None
        if label is None or label == -1:  # how `datasets` says that nobody told
            return None
        return self._source.class_names[label] if self._source.class_names else str(label)
