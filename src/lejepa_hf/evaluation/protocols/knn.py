"""k-nearest-neighbour classification of embeddings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ...system.devices import default_device
from ..embeddings.extraction import LabelledEmbeddings
from ..figures import Figures
from .protocol import OfClasses, OnEmbeddings

# Blocks of the matrix of cosines: 64 MB at a time.
_QUERIES, _BANK = 1024, 16384
_DEFAULT_K, _TEMPERATURE = 20, 0.07


@torch.no_grad()
def nearest_neighbours(bank: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Find the k rows of `bank` (images, dim) with the largest cosine to each query (queries, dim): cosines and row
    numbers, both of shape (queries, k), nearest first, on the host. The bank may lie on disk and is read once, from
    front to end; the queries are kept on the device, an accelerator if there is one, with their k neighbours.
    """
    device = default_device()
    queries = F.normalize(queries.to(device, torch.float32), dim=1)
    cosines = torch.full((len(queries), 0), 0.0, device=device)
    rows = torch.zeros((len(queries), 0), dtype=torch.long, device=device)
    for start in range(0, len(bank), _BANK):
        part = F.normalize(bank[start : start + _BANK].to(device, torch.float32), dim=1)
        found = [
            _merge(known_cosines, known_rows, chunk @ part.T, start, k)
            for chunk, known_cosines, known_rows in zip(
                queries.split(_QUERIES), cosines.split(_QUERIES), rows.split(_QUERIES), strict=True
            )
        ]
        cosines, rows = (torch.cat(of_chunks) for of_chunks in zip(*found, strict=True))
    return cosines.cpu(), rows.cpu()


def _merge(
    cosines: torch.Tensor, rows: torch.Tensor, new: torch.Tensor, start: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of those known so far and of a block of new ones."""
    best, columns = new.topk(min(k, new.shape[1]))
    cosines, rows = torch.cat([cosines, best], dim=1), torch.cat([rows, columns + start], dim=1)
    best, columns = cosines.topk(min(k, cosines.shape[1]))
    return best, rows.gather(1, columns)


def votes(
    cosines: torch.Tensor, labels: torch.Tensor, temperature: float = _TEMPERATURE
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """
    Share of each class in the vote of each query's neighbours, which weighs `exp(cosine / temperature)`, in chunks of
    queries, each with the class numbers of its columns. Cosines to the neighbours and their class numbers are of shape
    (queries, k), nearest first.
    """
    classes, places = labels.unique(return_inverse=True)  # numbers may be far apart
    for chunk, of_chunk in zip(cosines.split(_QUERIES), places.split(_QUERIES), strict=True):
        shares = torch.zeros(len(chunk), len(classes))
        # Relative to the nearest one: the ranks are the same and a low temperature does not overflow.
        shares.scatter_add_(1, of_chunk, torch.exp((chunk - chunk[:, :1]) / temperature))
        yield shares / shares.sum(1, keepdim=True), classes


def vote(cosines: torch.Tensor, labels: torch.Tensor, temperature: float = _TEMPERATURE) -> torch.Tensor:
    """Class number of each query that wins the vote of its neighbours, see [`votes`]."""
    return torch.cat([classes[shares.argmax(1)] for shares, classes in votes(cosines, labels, temperature)])


def nearest_vote(train: LabelledEmbeddings, test: LabelledEmbeddings) -> torch.Tensor:
    """Class numbers of test images by the vote of their 20 nearest training images, as `eval_knn_top1` has it."""
    cosines, rows = nearest_neighbours(train.embeddings, test.embeddings, min(_DEFAULT_K, len(train.labels)))
    return vote(cosines, train.labels[rows])


@dataclass(frozen=True)
class Knn(OfClasses, OnEmbeddings):
    """
    Weighted vote of the k nearest training images by cosine.

    Source: the protocol of Wu et al., arXiv 1805.01978, as used for DINO; the numbers of neighbours are DINO's. The
    LeJEPA paper has no k-NN.
    """

    name = "knn"

    def run(
        self,
        train: LabelledEmbeddings,
        test: LabelledEmbeddings,
        ks: Sequence[int] = (10, _DEFAULT_K, 100, 200),
        temperature: float = _TEMPERATURE,
    ) -> dict[str, float]:
        """
        For each k of `ks` `eval_knn<k>_top1`, for 20 `eval_knn_top1`, and so on for other metrics. More neighbours
        than there are training images count as all of them. A vote weighs `exp(cosine / temperature)`.
        """
        cosines, rows = nearest_neighbours(train.embeddings, test.embeddings, min(max(ks), len(train.labels)))
        labels, results = train.labels[rows], Figures()
        for k in ks:
            predictions = self.predictions(test.labels, usual=("top1",))
            for shares, classes in votes(cosines[:, :k], labels[:, :k], temperature):
                predictions.add(shares, classes)
            results |= predictions.figures("eval_knn" if k == _DEFAULT_K else f"eval_knn{k}")
        return results
