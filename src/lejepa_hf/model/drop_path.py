"""Drop path (stochastic depth): in training, blocks are left out for some images, later blocks more often."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .architecture import find_blocks, is_timm, setting


class DropPath:
    """
    A forward hook: in training mode a block is left out for each image with probability `rate`, so that its input is
    its output. Where it stays, what it adds is divided by `1 - rate`, so that the mean is that of all blocks.

    Source: arXiv 1603.09382. Differs from timm, which draws for attention and MLP of a transformer block separately.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, inputs: tuple, kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ANN401
        """The output, `(images, ...)`, or a tuple that begins with it, with the input of the images left out."""
        if not module.training:
            return output
        before, after = _states(inputs, kwargs, output)
        kept = torch.rand(len(after), *[1] * (after.ndim - 1), device=after.device) >= self.rate
        states = before + (after - before) * (kept / (1 - self.rate)).to(after.dtype)
        return (states, *output[1:]) if isinstance(output, tuple) else states


def add_drop_path(backbone: PreTrainedModel, rate: float, residual_blocks: Iterable[int]) -> None:
    """
    Let a backbone leave out blocks in training mode, with probabilities that rise linearly from 0 for the first block
    to `rate` for the last. Only `residual_blocks`, from [`~model.tracing.describe_backbone`], are left out: others
    change the size of their input. A backbone without them, or with a rate of its own, raises a `ValueError`.
    """
    config = backbone.config
    own = (config.model_args or {}).get("drop_path_rate") if is_timm(config) else setting(config, "drop_path_rate")
    if own:
        raise ValueError(
            f"`drop_path_rate` {rate} and `drop_path_rate` {own} in `backbone_config` would both leave out blocks: "
            "set one of them to 0."
        )
    places = [place for place in residual_blocks if place > 0]
    if not places:
        raise ValueError(
            f"`drop_path_rate` {rate} cannot be used with a {config.model_type} backbone: none of its blocks after "
            "the first keeps the size of its input. Set it to 0, or take another backbone, such as vit or resnet."
        )
    blocks = find_blocks(backbone)
    for place in places:
        blocks[place].register_forward_hook(DropPath(rate * place / (len(blocks) - 1)), with_kwargs=True)


def _states(inputs: tuple, kwargs: dict[str, Any], output: Any) -> tuple[Any, Any]:  # noqa: ANN401
    before = inputs[0] if inputs else next(iter(kwargs.values()))
    return before, output[0] if isinstance(output, tuple) else output


def note_residual_blocks(found: set[int], backbone: nn.Module) -> None:
    """Note in `found`, in the passes to come, the numbers of the blocks whose output has the shape of their input."""

    def note(number: int, module: nn.Module, inputs: tuple, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401
        before, after = _states(inputs, kwargs, output)
        if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor) and before.shape == after.shape:
            found.add(number)

    for number, block in enumerate(find_blocks(backbone)):
        block.register_forward_hook(partial(note, number), with_kwargs=True)
