"""A trained backbone as a model of its native transformers class, which loads without this package."""

import copy

from torch import nn
from transformers import PreTrainedModel

from .architecture import has_learned_pooler


def as_native_class(backbone: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """
    Turn a trained backbone into a model that `AutoModel` loads from its saved form alone.

    A class with a learned pooler would be loaded with a random one. It gets the identity instead, so that
    `pooler_output` is exactly the first token. `config.embedding_pooling` records how the trained embedding is made:
    `"pooler"`, `"cls"` or `"mean"`. The trained backbone and its config do not change.
    """
    config = backbone.config.__class__.from_dict(backbone.config.to_dict())
    config.embedding_pooling = pooling
    if not has_learned_pooler(config):
        native = copy.copy(backbone)  # shares the weights, has its own config
        native.config = config
        return native
    config.pooler_act = "linear"
    native = type(backbone)(config)
    result = native.load_state_dict(backbone.state_dict(), strict=False)
    unfilled = [key for key in result.missing_keys if not key.startswith("pooler.")] + result.unexpected_keys
    if unfilled:
        raise RuntimeError(f"{type(backbone).__name__} does not load its own weights: {unfilled}.")
    # Some classes have the setting in their config and no pooler by default.
    if "pooler" in dict(native.named_children()):
        native.config.embedding_pooling = "pooler" if pooling == "cls" else pooling
        nn.init.eye_(native.get_parameter("pooler.dense.weight"))
        nn.init.zeros_(native.get_parameter("pooler.dense.bias"))
    return native.eval()
