"""One embedding per image from what a backbone returns."""

import torch
from transformers.utils import ModelOutput


def final_states(outputs: ModelOutput) -> torch.Tensor | None:
    """
    The tokens `(B, N, C)` or the feature map `(B, C, h, w)` that a backbone ends with, or None if there is neither.

    Classes made for detectors have no `last_hidden_state` but one feature map for each stage; a network of several
    branches may return a list as its `last_hidden_state`.
    """
    states, maps = outputs.get("last_hidden_state"), outputs.get("feature_maps")
    states = maps[-1] if states is None and maps else states
    return states if isinstance(states, torch.Tensor) else None


def pool(outputs: ModelOutput, pooling: str) -> torch.Tensor:
    """One embedding per image, `(batch_size, embedding_dim)`; `pooling` is `"pooler"`, `"cls"` or `"mean"`."""
    if pooling == "pooler":
        return outputs["pooler_output"].flatten(1)
    states = final_states(outputs)
    if states is None:
        raise ValueError(f"`pooling` {pooling!r} needs tokens or a feature map, and the backbone returned neither.")
    if pooling == "cls":
        return states[:, 0]
    return states.mean(1) if states.ndim == 3 else states.flatten(2).mean(2)
