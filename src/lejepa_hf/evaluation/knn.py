"""k-nearest-neighbour classification of embeddings."""

import torch
from torch.nn import functional as F

from .embedding_extraction import LabelledEmbeddings

_CHUNK = 1024


def nearest_vote(
    train: LabelledEmbeddings, test: LabelledEmbeddings, k: int = 20, temperature: float = 0.07
) -> torch.Tensor:
    """
    The class that the nearest training images vote for, see [`knn`].

    Returns:
        `torch.Tensor` of shape `(num_test_images,)`: Class numbers.
    """
    k = min(k, len(train.labels))
    bank = F.normalize(train.embeddings, dim=1)
    num_classes = int(max(train.labels.max(), test.labels.max())) + 1
    best = []
    for queries in F.normalize(test.embeddings, dim=1).split(_CHUNK):
        cosine, nearest = (queries @ bank.T).topk(k)
        votes = torch.zeros(len(queries), num_classes)
        # Relative to the nearest one: the ranks are the same and a low temperature does not overflow.
        votes.scatter_add_(1, train.labels[nearest], torch.exp((cosine - cosine[:, :1]) / temperature))
        best.append(votes.argmax(1))
    return torch.cat(best)


def knn(
    train: LabelledEmbeddings, test: LabelledEmbeddings, k: int = 20, temperature: float = 0.07
) -> dict[str, float]:
    """
    Weighted vote of the k nearest training images by cosine.

    Args:
        train ([`LabelledEmbeddings`]): Images that vote.
        test ([`LabelledEmbeddings`]): Images that are classified.
        k (`int`, *optional*, defaults to 20): Neighbours, at most the number of training images.
        temperature (`float`, *optional*, defaults to 0.07): A vote weighs `exp(cosine / temperature)`.

    Returns:
        `dict[str, float]`: `eval_knn_top1` in [0, 1].

    Source: the protocol of Wu et al., arXiv 1805.01978, as used for DINO.
    """
    from .top_k_accuracy import TopKAccuracy  # needs `datasets`, which training does not

    best = nearest_vote(train, test, k, temperature).unsqueeze(1)
    top = TopKAccuracy().compute(predictions=best.tolist(), references=test.labels.tolist())
    return {"eval_knn_top1": top["top1"]}
