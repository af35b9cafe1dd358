"""Training on a random subset of an image's patches, for backbones that treat their tokens as a set."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .architecture import forward_kwargs, is_timm, native_image_size, num_channels
from .backbone import build_backbone
from .pooling import pool
from .tracing import TRACING_ERRORS, reason_of

_TRIED_LAYERS, _TRIED_PATCHES_A_SIDE = 2, 4
_TOLERANCE = 1e-3  # of outputs of order one; rounding is at 1e-6


class TokenDropping:
    """
    Keeps a random subset of the patch tokens between a backbone's embeddings and its blocks, in training mode.

    Every image draws its own subset, from the device's default generator; all images of a size keep equally many, at
    least one. Class and register tokens stay.

    Args:
        backbone (`PreTrainedModel`): Its forward passes drop tokens while `is_on` is true; nothing is added to its
            weights.
        rate (`float`): Share of the patches that is dropped, in [0, 1).
        num_prefix_tokens (`int`): Tokens in front that are no patches, from [`check_token_dropping`].
    """

    def __init__(self, backbone: PreTrainedModel, rate: float, num_prefix_tokens: int):
        self.rate, self.num_prefix_tokens = rate, num_prefix_tokens
        self.is_on = False
        _token_module(backbone).register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
        if not (self.is_on and module.training):
            return tokens
        batch_size, num_tokens, width = tokens.shape
        num_patches = num_tokens - self.num_prefix_tokens
        num_kept = max(1, round(num_patches * (1 - self.rate)))
        kept = torch.rand(batch_size, num_patches, device=tokens.device).topk(num_kept, sorted=False).indices
        prefix, patches = tokens.split([self.num_prefix_tokens, num_patches], dim=1)
        return torch.cat([prefix, patches.gather(1, kept[..., None].expand(-1, -1, width))], dim=1)


def check_token_dropping(config: PreTrainedConfig, rate: float, pooling: str) -> int:
    """
    Whether this backbone knows no order of its tokens behind its embeddings, found by trying.

    Fewer tokens go through it as shapes alone; then, as numbers, all of them in another order through its first
    layers: the same tokens must come out in that order. Positions that are looked up later (rotary, relative,
    windows) fail one of the two.

    Args:
        config (`PreTrainedConfig`): The backbone's config.
        rate (`float`): For the message.
        pooling (`str`): `"pooler"`, `"cls"` or `"mean"`: the embedding must not depend on the order either.

    Returns:
        `int`: Tokens in front that no pixel changes: class and register tokens.

    Raises:
        ValueError: If tokens of this backbone cannot be dropped.
    """
    try:
        _try_fewer_tokens(config)
        return _try_another_order(config, pooling)
    except TRACING_ERRORS as error:
        reason = reason_of(error) if isinstance(error, ValueError) else f"it needs all tokens: {reason_of(error)}"
        timm = " Some timm models drop patches themselves: `model_args: {patch_drop_rate: ...}` in `backbone_config`."
        raise ValueError(
            f"`token_drop_rate` {rate} cannot be used with a {config.model_type} backbone ({reason}): set it to 0, or "
            "take one whose positions are added to its tokens and nowhere else, such as vit or dinov2."
            + (timm if is_timm(config) else "")
        ) from error


def _token_module(backbone: nn.Module) -> nn.Module:
    """What yields all tokens with their positions; in timm's models that is `patch_drop`, the identity by default."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in ("embeddings", "patch_drop"):
            return module
    raise ValueError("it has no embeddings to drop tokens from")


@contextmanager
def _changed_tokens(backbone: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    def hook(module: nn.Module, inputs: tuple, tokens) -> torch.Tensor:
        if not torch.is_tensor(tokens) or tokens.ndim != 3:
            raise ValueError("its embeddings are no sequence of tokens")
        return change(tokens)

    handle = _token_module(backbone).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _try_fewer_tokens(config: PreTrainedConfig) -> None:
    numbers = []

    def half(tokens: torch.Tensor) -> torch.Tensor:
        numbers.append(-(-tokens.shape[1] // 2))
        return tokens[:, : numbers[0]]

    size = native_image_size(config)
    with torch.device("meta"):
        backbone, pixels = build_backbone(config).eval(), torch.empty(1, num_channels(config), size, size)
    with torch.no_grad(), _changed_tokens(backbone, half):
        states = backbone(pixels, **forward_kwargs(backbone))
    if states.last_hidden_state.ndim != 3 or states.last_hidden_state.shape[1] != numbers[0]:
        raise ValueError("it needs all tokens")


def _try_another_order(config: PreTrainedConfig, pooling: str) -> int:
    config = _reduced(config)
    # Neither the caller's random numbers nor its default device may matter.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        backbone = build_backbone(config).eval().float()
        # As drawn for training some positions start at zero and would go unnoticed.
        for parameter in backbone.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1.0)
        size = native_image_size(config)
        pixels = torch.randn(2, num_channels(config), size, size)
        seen = []
        with _changed_tokens(backbone, lambda tokens: seen.append(tokens) or tokens):
            expected = backbone(pixels, **forward_kwargs(backbone))
        is_prefix = (seen[0][0] == seen[0][1]).all(-1)
        num_prefix_tokens = int(is_prefix.sum())
        if is_prefix[num_prefix_tokens:].any():
            raise ValueError("its class and register tokens do not stand in front")
        patches = num_prefix_tokens + torch.randperm(len(is_prefix) - num_prefix_tokens)
        order = torch.cat([torch.arange(num_prefix_tokens), patches])
        with _changed_tokens(backbone, lambda tokens: tokens[:, order]):
            found = backbone(pixels, **forward_kwargs(backbone))
        pairs = (
            (found.last_hidden_state, expected.last_hidden_state[:, order]),
            (pool(found, pooling), pool(expected, pooling)),
        )
        if not all(torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE) for one, other in pairs):
            raise ValueError("it looks up positions behind its embeddings")
    return num_prefix_tokens


def _reduced(config: PreTrainedConfig) -> PreTrainedConfig:
    """Enough of the backbone to see what its layers do, where its config says how: the whole may take a minute."""
    config = copy.deepcopy(config)
    if is_timm(config):
        config.model_args = {**(config.model_args or {}), "depth": _TRIED_LAYERS}
        return config
    if hasattr(config, "num_hidden_layers"):
        config.num_hidden_layers = min(_TRIED_LAYERS, config.num_hidden_layers)
    size, patch_size = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if isinstance(size, int) and isinstance(patch_size, int):
        config.image_size = min(size, _TRIED_PATCHES_A_SIDE * patch_size)
    return config
