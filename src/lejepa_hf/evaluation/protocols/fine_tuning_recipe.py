"""Where quick fine-tuning and the recipes of papers differ: passes, crops, mixing, decay by layer, drop path."""

import copy
import logging
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...model.architecture import find_blocks, forward_kwargs
from ...model.drop_path import add_drop_path, note_residual_blocks
from ...system.error_text import reason_of

logger = logging.getLogger("lejepa_hf")


@dataclass(frozen=True)
class FineTuningRecipe:
    """
    Settings of a fine-tuning that are not chosen on images.

    Args:
        num_epochs (`int`): Passes over the images.
        least_steps (`int`): Number of steps that images must make, by more passes if there are few.
        warmup (`float`): Share of the steps in which the learning rate rises.
        layer_decay (`float`): Factor of the learning rate from one block to the one before it.
        drop_path_rate (`float`): How often the last block is left out; earlier ones less often.
        mixup (`float`): Alpha of mixup (arXiv 1710.09412); 0 for none.
        cutmix (`float`): Alpha of CutMix (arXiv 1905.04899), which half of the batches have if there are both.
        label_smoothing (`float`): Share of each label that is spread over all classes.
        has_flips (`bool`): Whether images are random crops of 8 to 100 % of the area, half of them flipped; otherwise
            squares of 70 to 100 % of the shorter side.
    """

    num_epochs: int
    least_steps: int
    warmup: float = 0.1
    layer_decay: float = 1.0
    drop_path_rate: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    has_flips: bool = False


QUICK = FineTuningRecipe(num_epochs=5, least_steps=200)
# MAE, arXiv 2111.06377, and FINETUNE.md of its published code for ViT-B, whose decay by layer is 0.65 (0.75 in the
# paper's table); without RandAugment and random erasing.
LONG = FineTuningRecipe(
    num_epochs=100, least_steps=200, warmup=0.05, layer_decay=0.65, drop_path_rate=0.1, mixup=0.8, cutmix=1.0,
    label_smoothing=0.1, has_flips=True,
)  # fmt: skip


def drop_paths(encoder: PreTrainedModel, rate: float, pixels: torch.Tensor) -> None:
    """
    Add drop path where an encoder has blocks that can be left out, and none of its own; `pixels` are pixel values that
    it takes.
    """
    residual, traced = set[int](), copy.deepcopy(encoder)
    note_residual_blocks(residual, traced)
    with torch.no_grad():
        traced(pixels.to(traced.device, traced.dtype), **forward_kwargs(traced))
    try:
        add_drop_path(encoder, rate, residual)
    except ValueError as error:
        logger.info(f"fine-tuning without `drop_path_rate`: {reason_of(error)}")


def groups_by_layer(
    encoder: PreTrainedModel, head: nn.Module, learning_rate: float, layer_decay: float, weight_decay: float
) -> list[dict]:
    """
    Parameter groups of an optimizer: the head and what follows the blocks has the full learning rate, a block
    `layer_decay` times that of the next one, and what precedes the blocks still less. Vectors, such as those of norms,
    are not decayed.
    """
    blocks = find_blocks(encoder)
    depth = {parameter: place + 1 for place, block in enumerate(blocks) for parameter in block.parameters()}
    last = len(blocks) + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    seen_blocks = False
    for parameter in [*encoder.parameters(), *head.parameters()]:
        if not parameter.requires_grad:
            continue
        seen_blocks = seen_blocks or parameter in depth
        place = depth.get(parameter, last if seen_blocks or not blocks else 0)
        groups.setdefault((place, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay ** (last - place),
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for (place, is_matrix), parameters in groups.items()
    ]


def mixed(
    pixels: torch.Tensor, labels: torch.Tensor, num_classes: int, recipe: FineTuningRecipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    A batch of pixel values `(B, C, H, W)` in which each image is mixed with the one at the same place from the end,
    and its labels as probabilities `(B, num_classes)`, mixed in the same proportion and smoothed. Without mixing and
    smoothing both stay as they are. Draws are those of torch's global generator.
    """
    if not (recipe.mixup or recipe.cutmix or recipe.label_smoothing):
        return pixels, labels
    probabilities = F.one_hot(labels, num_classes).float()
    probabilities = probabilities * (1 - recipe.label_smoothing) + recipe.label_smoothing / num_classes
    alphas = [("mixup", recipe.mixup), ("cutmix", recipe.cutmix)]
    kinds = [(kind, alpha) for kind, alpha in alphas if alpha]
    if not kinds:
        return pixels, probabilities
    kind, alpha = kinds[int(torch.randint(len(kinds), ()))]
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if kind == "mixup":
        pixels = share * pixels + (1 - share) * pixels.flip(0)
    else:
        height, width = pixels.shape[-2:]
        rows, columns = (_cut(side, (1 - share) ** 0.5) for side in (height, width))
        pixels, other = pixels.clone(), pixels.flip(0)
        pixels[..., rows, columns] = other[..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - area / (height * width)
    return pixels, share * probabilities + (1 - share) * probabilities.flip(0)


def _cut(side: int, share: float) -> slice:
    """A part of a side around a random centre, which the border may make smaller."""
    centre, half = int(torch.randint(side, ())), round(side * share) // 2
    return slice(max(0, centre - half), min(side, centre + half))
