"""torch.compile for the backbone: one graph for each crop size, however deep it is."""

import torch
from torch import nn

from ..model.repeated_layers import find_blocks


def compile_backbone(backbone: nn.Module, backend: str = "inductor", mode: str | None = None, by_block=False) -> None:
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


def without_compiled_graphs():
    """A context in which compiled modules run as written: other batches and modes would each need a graph."""
    return torch.compiler.set_stance("force_eager")
