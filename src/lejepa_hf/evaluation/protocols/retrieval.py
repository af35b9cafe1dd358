"""Image retrieval: how high training images of the same class rank."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from ...system.devices import default_device
from ...system.progress_bars import progress_bar
from ..embeddings.extraction import LabelledEmbeddings
from ..figures import Figures
from ..intervals import over_images, with_interval
from .protocol import OnEmbeddings

_BLOCK = 2**26  # cosines at a time; a query needs all of its own, since its ranking is a full one
_BANK = 16384
_DEPTHS = (1, 5, 10)


class Retrieval(OnEmbeddings):
    """
    Rank all training images by their cosine to each test image; images of its class are relevant. That is retrieval of
    classes, as in metric learning; Oxford, Paris and copy detection, which DINO reports, retrieve one object or image.
    """

    name = "retrieval"
    needs_known_classes = False

    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """
        `eval_retrieval_map`, the mean over queries of the average precision of the full ranking, and for k of 1, 5 and
        10 `eval_retrieval_recall<k>`, the share of queries with a relevant image among the first k. Queries whose
        class is not among the training images do not count.
        """
        from ..metrics.ranking_quality import RankingQuality, average_precisions

        if not torch.isin(test.labels, train.labels).any():
            raise ValueError("No class of the test images is among the training images: there is nothing to retrieve.")
        metric, precisions, first = RankingQuality(), [], []
        for places in _places_of_relevant(train, test):
            numbers = [len(of_query) for of_query in places]
            metric.add_batch(predictions=places, references=numbers)
            precisions += average_precisions(places, numbers)
            first += [of_query[0] for of_query in places]
        results, found = over_images("eval_retrieval_map", precisions), metric.compute()
        for depth in _DEPTHS:
            name = f"eval_retrieval_recall{depth}"
            figures = with_interval(name, found[f"recall{depth}"], len(precisions))
            results |= Figures(figures, {name: (np.array(first) <= depth).astype(float)})
        return results


@torch.no_grad()
def _places_of_relevant(train: LabelledEmbeddings, test: LabelledEmbeddings) -> Iterator[list[list[int]]]:
    """In chunks of queries, the places of each query's relevant images in its ranking, from 1."""
    device, number = default_device(), len(train.labels)
    is_known = torch.isin(test.labels, train.labels)
    queries, labels = test.embeddings[is_known], test.labels[is_known]
    size = max(1, _BLOCK // number)
    chunks = zip(queries.split(size), labels.split(size), strict=True)
    for chunk, wanted in progress_bar(chunks, desc="retrieval", total=-(-len(queries) // size), unit=" chunks"):
        chunk = F.normalize(chunk.to(device, torch.float32), dim=1)
        cosines = torch.empty(len(chunk), number, device=device)
        for start in range(0, number, _BANK):
            part = F.normalize(train.embeddings[start : start + _BANK].to(device, torch.float32), dim=1)
            cosines[:, start : start + len(part)] = chunk @ part.T
        ranking = cosines.argsort(dim=1, descending=True, stable=True).cpu()
        is_relevant = train.labels[ranking] == wanted[:, None]
        yield [(of_query.nonzero().squeeze(1) + 1).tolist() for of_query in is_relevant]
