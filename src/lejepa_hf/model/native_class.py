"""A trained backbone as a model of its native class, whose saved form needs nothing else."""

import copy

import torch
from transformers import PreTrainedModel

from .architecture import has_learned_pooler


def as_standalone(backbone: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """
    The backbone as a model of its native class whose saved form needs nothing else.

    A class with a learned pooler would load with a random one. It gets the identity instead, so that `pooler_output`
    is exactly the first token. `config.embedding_pooling` says how the trained embedding is made.

    Args:
        backbone (`PreTrainedModel`): A trained backbone from [`build_backbone`]; not modified, nor is its config.
        pooling (`str`): How it was trained: `"pooler"`, `"cls"` or `"mean"`.

    Returns:
        `PreTrainedModel`: In evaluation mode.
    """
    config = backbone.config.__class__.from_dict(backbone.config.to_dict())
    config.embedding_pooling = pooling
    if not has_learned_pooler(config):
        standalone = copy.copy(backbone)  # shares the weights, has its own config
        standalone.config = config
        return standalone
    config.pooler_act = "linear"
    standalone = type(backbone)(config)
    result = standalone.load_state_dict(backbone.state_dict(), strict=False)
    unfilled = [key for key in result.missing_keys if not key.startswith("pooler.")] + result.unexpected_keys
    if unfilled:
        raise RuntimeError(f"{type(backbone).__name__} does not take its own weights back: {unfilled}.")
    if standalone.pooler is None:  # some classes have the key in their config and no pooler by default
        return standalone.eval()
    standalone.config.embedding_pooling = "pooler" if pooling == "cls" else pooling
    with torch.no_grad():
        standalone.pooler.dense.weight.copy_(torch.eye(config.hidden_size))
        standalone.pooler.dense.bias.zero_()
    return standalone.eval()
