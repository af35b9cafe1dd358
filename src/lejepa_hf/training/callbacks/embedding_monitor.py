"""EmbeddingMonitor: rank and spread of the embeddings."""

import torch

from ...evaluation.rank import rank_and_spread
from .monitor import Monitor


class EmbeddingMonitor(Monitor):
    """
    `effective_rank`, `embedding_spread` and `smallest_spread` of the global views of the last batch before a row is
    logged, see [`~evaluation.rank.rank_and_spread`]. Between rows it computes nothing.
    """

    def __init__(self, num_global_views: int) -> None:
        self.num_global_views = num_global_views
        self._embeddings: torch.Tensor | None = None

    def observe(self, embeddings: torch.Tensor, labels: torch.Tensor | None) -> None:
        """Keep the global views of the last batch."""
        self._embeddings = embeddings[: self.num_global_views].detach()

    def measure(self) -> dict[str, float]:
        """Rank and spread of the last batch; nothing before the first."""
        return {} if self._embeddings is None else rank_and_spread(self._embeddings.flatten(0, 1))
