"""The repeated blocks of a backbone, which FSDP shards and `torch.compile` compiles one by one."""

from torch import nn

_MOST_STAGES = 6  # at most so many list elements that contain lists themselves are stages, not blocks


def find_blocks(backbone: nn.Module) -> list[nn.Module]:
    """
    Find the repeated blocks of a network from its structure, in order; an empty list if it has none.

    They are the modules in its module lists or, where these hold a few stages, in the lists inside the stages.
    """
    outer = _in_lists(backbone)
    inner = [block for module in outer for block in _in_lists(module)]
    return inner if inner and len(outer) <= _MOST_STAGES else outer


def _in_lists(module: nn.Module) -> list[nn.Module]:
    """The outermost modules in lists below `module` that have weights and are not single layers of torch."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += [block for block in _elements(child) if not type(block).__module__.startswith("torch.nn.")]
        else:
            found += _in_lists(child)
    return [block for block in found if any(True for _ in block.parameters())]


def _elements(container: nn.ModuleList | nn.Sequential) -> list[nn.Module]:
    """The elements of a list, with those of the lists in it."""
    nested = (_elements(child) if isinstance(child, nn.ModuleList | nn.Sequential) else [child] for child in container)
    return [element for elements in nested for element in elements]
