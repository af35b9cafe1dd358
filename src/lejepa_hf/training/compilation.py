"""torch.compile for the backbone: one graph for each crop size, however deep it is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn

from ..model.repeated_layers import find_blocks


def compile_backbone(
    backbone: nn.Module, backend: str = "inductor", mode: str | None = None, by_block: bool = False
) -> None:
    """
    Compiles in place; names of modules and weights stay what they are.

    Where all blocks are alike, as in a ViT, one block is compiled and serves them all, which takes seconds at any
    depth; otherwise the whole backbone. Shapes are fixed, so that each crop size has a graph of its own, and only one:
    a graph for all sizes would be slower in every step.

    Args:
        backbone (`nn.Module`): Called with crops of a few sizes.
        backend (`str`, *optional*, defaults to `"inductor"`): Of `torch.compile`.
        mode (`str`, *optional*): Of `torch.compile`.
        by_block (`bool`, *optional*, defaults to `False`): Block by block in any case, as FSDP needs it, which shards
            them one by one.
    """
    blocks = find_blocks(backbone)
    kinds = {tuple((name, p.shape) for name, p in block.named_parameters()) for block in blocks}
    for module in blocks if blocks and (by_block or len(kinds) == 1) else [backbone]:
        module.compile(backend=backend, mode=mode, dynamic=False)


@contextmanager
def left_to_us(accelerator: Accelerator) -> Iterator[None]:
    """
    Keeps Accelerate from compiling the whole model, with the objective and its directions, which change in each step.
    Its settings are shared by all Trainers of a process, and are what they were afterwards.
    """
    plugin = accelerator.state.dynamo_plugin
    before, plugin.backend = plugin.backend, DynamoBackend.NO
    try:
        yield
    finally:
        plugin.backend = before


def without_compiled_graphs() -> AbstractContextManager[None]:
    """A context in which compiled modules run as written: other batches and modes would each need a graph."""
    return torch.compiler.set_stance("force_eager")
