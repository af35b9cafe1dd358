"""The model of a run before its first step: fresh, with a pretrained backbone, or of an earlier run."""

from pathlib import Path

from ..configuration_lejepa import LeJEPAConfig
from ..hub.trained_model import read_trained_model
from ..model.backbone import pretrained_config
from ..modeling_lejepa import LeJEPAForPreTraining
from .arguments import ModelArguments


def build_config(arguments: ModelArguments, seed: int = 0, earlier: Path | None = None) -> LeJEPAConfig:
    """
    The config of a run's model. `seed` fixes SIGReg's directions; `earlier` is the folder from
    [`~runs.continuing.find_earlier_run`], which `continue_from` needs.
    """
    assert earlier is not None or arguments.continue_from is None, "resolve the recipe first"
    if earlier is not None:
        backbone = LeJEPAConfig.from_pretrained(earlier).backbone_config
    elif arguments.pretrained_backbone is not None:
        backbone = pretrained_config(arguments.pretrained_backbone)
    else:
        backbone = arguments.backbone_config
    return LeJEPAConfig(backbone_config=backbone, **arguments.config_kwargs(), directions_seed=seed)


def build_model(arguments: ModelArguments, seed: int = 0, earlier: Path | None = None) -> LeJEPAForPreTraining:
    """The model of a run with the weights it starts from; arguments as in [`build_config`]."""
    if arguments.pretrained_backbone is not None:
        return LeJEPAForPreTraining.from_pretrained_backbone(
            arguments.pretrained_backbone, **arguments.config_kwargs(), directions_seed=seed
        )
    model = LeJEPAForPreTraining(build_config(arguments, seed, earlier))
    if earlier is not None:  # the objective has no weights, and may be another one than the earlier run's
        saved = read_trained_model(earlier)
        model.encoder.load_state_dict(saved.encoder.state_dict())
        model.projector.load_state_dict(saved.projector.state_dict())
    return model
