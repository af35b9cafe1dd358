"""Token dropping: training on a random subset of the patches, for backbones that treat their tokens as a set."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedConfig, PreTrainedModel

from ..system.error_text import reason_of
from .architecture import forward_kwargs, is_timm, native_image_size, num_channels, setting
from .backbone import build_backbone
from .layers import pool
from .tracing import TRACING_ERRORS, with_plain_attention

_TRIED_LAYERS, _TRIED_PATCHES_A_SIDE = 2, 4
_TOLERANCE = 1e-3  # the outputs are of order one and rounding is at 1e-6


class TokenDropping:
    """
    Keep a random subset of the patch tokens between a backbone's embeddings and its blocks, in training mode.

    Every image draws its own subset, from the default generator of the device, while `is_on` is true. All images of a
    size keep the same number of patches, at least one, and the `num_prefix_tokens` class and register tokens in front.
    """

    def __init__(self, backbone: PreTrainedModel, rate: float, num_prefix_tokens: int) -> None:
        self.rate, self.num_prefix_tokens = rate, num_prefix_tokens
        self.is_on = False
        _token_module(backbone).register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
        """Forward hook of the embeddings: the class and register tokens, and a random subset of the patches."""
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
    Check by two trials that the layers behind a backbone's embeddings do not depend on the order of its tokens.

    First, half of the tokens pass through the backbone on the meta device. Then all tokens pass through its first
    layers in another order, and the same tokens must come out in that order and give the same embedding. Backbones
    that look up positions later (rotary, relative, windows) fail one of the two and are refused with a `ValueError`.

    Returns the number of class and register tokens in front, which do not depend on the pixels.
    """
    config = with_plain_attention(config)
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
    """The module that yields all tokens with their positions; `patch_drop` in timm, the identity by default."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in ("embeddings", "patch_drop"):
            return module
    raise ValueError("it has no embeddings to drop tokens from")


def _changed_tokens(backbone: nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> RemovableHandle:
    """A context in which `change` replaces the tokens that a backbone's blocks get, unless it returns None."""

    def hook(module: nn.Module, inputs: tuple, tokens: object) -> torch.Tensor | None:
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3:
            raise ValueError("its embeddings are not a sequence of tokens")
        return change(tokens)

    return _token_module(backbone).register_forward_hook(hook)


def _try_fewer_tokens(config: PreTrainedConfig) -> None:
    numbers: list[int] = []

    def half(tokens: torch.Tensor) -> torch.Tensor:
        numbers.append(-(-tokens.shape[1] // 2))
        return tokens[:, : numbers[0]]

    size = native_image_size(config)
    with torch.device("meta"):
        backbone, pixels = build_backbone(config).eval(), torch.empty(1, num_channels(config), size, size)
    with torch.no_grad(), _changed_tokens(backbone, half):
        states = backbone(pixels, **forward_kwargs(backbone)).last_hidden_state
    if states.ndim != 3 or states.shape[1] != numbers[0]:
        raise ValueError("it needs all tokens")


def _try_another_order(config: PreTrainedConfig, pooling: str) -> int:
    config = _reduced(config)
    # The result must not depend on the caller's random state or default device.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        backbone = build_backbone(config).eval().float()
        # Positions that start at zero in training would have no effect.
        for parameter in backbone.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1.0)
        size = native_image_size(config)
        pixels = torch.randn(2, num_channels(config), size, size)
        seen: list[torch.Tensor] = []
        with _changed_tokens(backbone, seen.append):
            expected = backbone(pixels, **forward_kwargs(backbone))
        of_two_images = seen[0]
        is_prefix = (of_two_images[0] == of_two_images[1]).all(-1)
        num_prefix_tokens = int(is_prefix.sum())
        if is_prefix[num_prefix_tokens:].any():
            raise ValueError("its class and register tokens do not come first")
        patches = num_prefix_tokens + torch.randperm(len(is_prefix) - num_prefix_tokens)
        order = torch.cat([torch.arange(num_prefix_tokens), patches])
        with _changed_tokens(backbone, lambda tokens: tokens[:, order]):
            found = backbone(pixels, **forward_kwargs(backbone))
        pairs = (
            (found["last_hidden_state"], expected["last_hidden_state"][:, order]),
            (pool(found, pooling), pool(expected, pooling)),
        )
        if not all(torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE) for one, other in pairs):
            raise ValueError("it uses positions after its embeddings")
    return num_prefix_tokens


def _reduced(config: PreTrainedConfig) -> PreTrainedConfig:
    """A config with few layers and patches, where the backbone has such settings: the full one may take a minute."""
    config = copy.deepcopy(config)
    if is_timm(config):
        config.model_args = {**(config.model_args or {}), "depth": _TRIED_LAYERS}
        return config
    num_layers = setting(config, "num_hidden_layers")
    if isinstance(num_layers, int):
        config.update({"num_hidden_layers": min(_TRIED_LAYERS, num_layers)})
    size, patch_size = setting(config, "image_size"), setting(config, "patch_size")
    if isinstance(size, int) and isinstance(patch_size, int):
        config.update({"image_size": min(size, _TRIED_PATCHES_A_SIDE * patch_size)})
    return config
