"""Batch norm that judges by batches, as in training, without being trained."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """
    Within the context all batch norms of a model in evaluation mode normalise by the batch they see; their running
    statistics neither count nor change.

    A network that takes crops of several sizes has one running average for all of them, which fits none: the objective
    in plain evaluation mode is another one than that of training, up to 17 times as large on digits.

    Args:
        model (`nn.Module`): In evaluation mode, wrapped or not.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None
        yield
    finally:
        for norm, (mean, var) in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var = mean, var
