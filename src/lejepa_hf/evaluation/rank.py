"""Effective rank and spread of embeddings, from the spectrum of their covariance."""

import torch

_MAX_ROWS = 512
_CHUNK_ROWS = 4096  # held in double precision at once
_RESOLUTION = torch.finfo(torch.float32).eps


def mean_and_spectrum(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean (K,) of at least 2 rows (N, K) in fp32 on the host, and the eigenvalues (K,) of their covariance, descending,
    both in fp64.
    """
    num_rows, dim = rows.shape
    mean = rows.mean(0, dtype=torch.float64)
    if num_rows < dim:  # the same eigenvalues except for zeros, from the smaller matrix
        centred = rows - mean
        scatter = centred @ centred.T
    else:
        scatter = torch.zeros(dim, dim, dtype=torch.float64)
        for part in rows.split(_CHUNK_ROWS):
            scatter += (part - mean).T @ (part - mean)
    found = torch.linalg.eigvalsh(scatter).flip(0) / (num_rows - 1)
    # Rounding errors of fp32 samples are not variance: images that are all the same must have rank 0.
    found[found < (_RESOLUTION * rows.abs().max()).square()] = 0
    return mean, torch.nn.functional.pad(found, (0, dim - len(found)))


def entropy_rank(values: torch.Tensor) -> float:
    """Exponential of the entropy of values normalised to sum 1: their number if all are equal, 0 if all are 0."""
    positive = values[values > 0]
    if len(positive) == 0:
        return 0.0
    shares = positive / positive.sum()
    return torch.exp(-(shares * shares.log()).sum()).item()


def rank_and_spread(embeddings: torch.Tensor) -> dict[str, float]:
    """
    Measure whether embeddings fill their space, on the first 512 rows of at least 2. They are copied to the host,
    which waits for the device.

    - `effective_rank`: RankMe, the exponential of the entropy of the normalised singular values of the centred
      embeddings: in [0, min(rows - 1, dim)], 0 if all are the same.
    - `embedding_spread`: mean over dimensions of the standard deviation over images.
    - `smallest_spread`: the smallest of these. All three are NaN if an embedding is NaN or infinite.

    Source: RankMe, arXiv 2210.02885. Differs: centred, so that a common offset is not counted as a dimension.
    """
    rows = embeddings[:_MAX_ROWS].detach().float().cpu()
    if not rows.isfinite().all():
        return dict.fromkeys(("effective_rank", "embedding_spread", "smallest_spread"), float("nan"))
    spread = rows.std(0)
    return {
        "effective_rank": entropy_rank(mean_and_spectrum(rows)[1].sqrt()),
        "embedding_spread": spread.mean().item(),
        "smallest_spread": spread.min().item(),
    }
