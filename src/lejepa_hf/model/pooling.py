"""One embedding per image from what a backbone returns."""

import torch


def final_states(outputs) -> torch.Tensor | None:
    """
    Args:
        outputs (`ModelOutput`): What a backbone returned.

    Returns:
        `torch.Tensor` of shape `(B, N, C)` (tokens) or `(B, C, h, w)` (feature map), None if there is nothing of the
        kind. Classes that are made to serve detectors have no `last_hidden_state` but a map of each stage; a network
        of several branches may have a list of them.
    """
    states = getattr(outputs, "last_hidden_state", None)
    maps = getattr(outputs, "feature_maps", None)
    states = maps[-1] if states is None and maps else states
    return states if isinstance(states, torch.Tensor) else None


def pool(outputs, pooling: str) -> torch.Tensor:
    """
    One embedding per image.

    Args:
        outputs (`ModelOutput`): What the backbone returned.
        pooling (`str`): `"pooler"`, `"cls"` or `"mean"`.

    Returns:
        `torch.Tensor` of shape `(batch_size, embedding_dim)`.
    """
    if pooling == "pooler":
        return outputs.pooler_output.flatten(1)
    states = final_states(outputs)
    if pooling == "cls":
        return states[:, 0]
    return states.mean(1) if states.ndim == 3 else states.flatten(2).mean(2)
