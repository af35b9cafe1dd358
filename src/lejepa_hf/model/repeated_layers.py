"""The repeated blocks of a backbone: what FSDP shards and `torch.compile` compiles one by one."""

from torch import nn

_MOST_STAGES = 6  # as many list elements as that, with lists in them, are stages and not blocks


def find_blocks(backbone: nn.Module) -> list[nn.Module]:
    """
    The blocks, from the structure alone: modules that stand in lists, or in the lists inside of them where these are
    a few stages.

    Args:
        backbone (`nn.Module`): Any network.

    Returns:
        `list[nn.Module]`: In the order of the network; empty if nothing in it repeats.
    """
    outer = _in_lists(backbone)
    inner = [block for module in outer for block in _in_lists(module)]
    return inner if inner and len(outer) <= _MOST_STAGES else outer


def _in_lists(module: nn.Module) -> list[nn.Module]:
    """The outermost modules in lists below `module` that have weights and are no single layers of torch."""
    found = []
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += [block for block in _elements(child) if not type(block).__module__.startswith("torch.nn.")]
        else:
            found += _in_lists(child)
    return [block for block in found if any(True for _ in block.parameters())]


def _elements(container: nn.Module) -> list[nn.Module]:
    """What a list holds, the lists in it opened."""
    opened = (_elements(child) if isinstance(child, nn.ModuleList | nn.Sequential) else [child] for child in container)
    return [element for elements in opened for element in elements]
