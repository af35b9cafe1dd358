"""A recipe with nothing left open: its network, the sizes of its views, the checkpoint it resumes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configuration_lejepa import LeJEPAConfig, resolve_backbone_config
from ..data.reader_state import read_positions
from ..evaluation.protocols.registry import check_protocols
from ..model.backbone import prepare_config
from ..training.checkpoints import resolve_resume
from ..training.view_fitting import fit_views
from .arguments import Recipe
from .initial_model import build_config, find_earlier_run


@dataclass(frozen=True)
class ResolvedRecipe(Recipe):
    """A recipe whose every value is the one that the run uses."""

    config: LeJEPAConfig  # of the model
    earlier: Path | None  # folder of the backbone and projector that `continue_from` names
    checkpoint: Path | None  # complete one that `resume` stands for; None for a run from its first step on

    def arguments(self) -> dict[str, Any]:
        """As in [`Recipe`], with the checkpoint itself in place of `auto`."""
        return super().arguments() | {"resume": None if self.checkpoint is None else str(self.checkpoint)}


def resolve(recipe: Recipe) -> ResolvedRecipe:
    """
    Decide everything that a recipe leaves open, before any data or weights are read.

    Args:
        recipe ([`Recipe`]): Stays as it is.

    Returns:
        [`ResolvedRecipe`]: A new recipe, the only one that [`~runs.pretraining.build`] takes.

    Raises:
        ValueError: If protocols are unknown, there is no checkpoint to resume from or no network to continue, or views
            and backbone do not fit; the message says what to change.
    """
    training = recipe.training
    check_protocols(recipe.data.eval_protocols, at_the_end_of_training=True)
    checkpoint = None if training.resume is None else resolve_resume(training.resume, recipe.folder)
    if checkpoint is not None:
        read_positions(checkpoint)  # refuses a checkpoint without them
    model, earlier = find_earlier_run(recipe)
    config = build_config(model, training.seed, earlier)
    backbone = resolve_backbone_config(config.backbone_config)
    prepare_config(backbone)
    data = fit_views(recipe.data, recipe.given, backbone, earlier or model.pretrained_backbone)
    return ResolvedRecipe(model, data, training, recipe.given, config, earlier, checkpoint)
