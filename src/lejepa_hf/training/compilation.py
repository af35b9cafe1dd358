"""torch.compile for the backbone: one graph for each crop size, whatever its depth."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn
from transformers import TrainingArguments

from ..model.architecture import find_blocks


def compile_if_requested(backbone: nn.Module, args: TrainingArguments, by_block: bool) -> None:
    """
    Compile a backbone in place if the arguments name a backend or the launcher does; names of weights do not change.

    If all blocks are alike, as in a ViT, one block is compiled and its graph is used for all of them, which takes
    seconds at any depth; otherwise the entire backbone is compiled. With `by_block` each block is compiled in any
    case, which FSDP needs because it shards each block. Shapes are static, so that each crop size has a graph of its
    own: a single graph for all sizes would be slower in every step.
    """
    # A plugin of our own reads what the launcher set; Accelerate's belongs to all Trainers of the process.
    mode = args.torch_compile_mode
    chosen = TorchDynamoPlugin(backend=args.torch_compile_backend, mode=mode).backend
    if chosen == DynamoBackend.NO:
        return
    blocks = find_blocks(backbone)
    kinds = {tuple((name, p.shape) for name, p in block.named_parameters()) for block in blocks}
    for module in blocks if blocks and (by_block or len(kinds) == 1) else [backbone]:
        module.compile(backend=chosen.value.lower(), mode=mode, dynamic=False)


@contextmanager
def left_to_us(accelerator: Accelerator) -> Iterator[None]:
    """
    Keep Accelerate from compiling the entire model, with the objective and its directions, which change in each step.
    All Trainers of a process share its settings, so they are restored afterwards.
    """
    plugin = accelerator.state.dynamo_plugin
    before, plugin.backend = plugin.backend, DynamoBackend.NO
    try:
        yield
    finally:
        plugin.backend = before
