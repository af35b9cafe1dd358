import torch

from lejepa_hf.evaluation.rank import rank_and_spread
from lejepa_hf.training.callbacks.embedding_monitor import EmbeddingMonitor


def test_rank_and_spread_are_of_the_last_batch_of_global_views():
    monitor, generator = EmbeddingMonitor(num_global_views=2), torch.Generator().manual_seed(0)
    assert monitor.measure() == {}
    first, last = (torch.randn(5, 30, 8, generator=generator, requires_grad=True) for _ in range(2))
    monitor.observe(first, None)
    monitor.observe(last, None)
    assert monitor.measure() == rank_and_spread(last[:2].flatten(0, 1))
