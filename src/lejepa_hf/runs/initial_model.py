"""The model of a run before its first step: fresh, with a pretrained backbone, or of an earlier run."""

import copy
from pathlib import Path

from ..configuration_lejepa import LeJEPAConfig
from ..hub.trained_model import read_trained_model
from ..model.backbone import load_pretrained_backbone, pretrained_config
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


def build_model(
    config: LeJEPAConfig, pretrained_backbone: str | None = None, earlier: Path | None = None
) -> LeJEPAForPreTraining:
    """
    The model of a run with the weights it starts from: those of `pretrained_backbone`, a Hub id or folder, in its
    backbone; those of `earlier`, an earlier run's folder, in backbone and projector; otherwise fresh ones. `config` is
    from [`build_config`] and stays as it is.
    """
    model = LeJEPAForPreTraining(copy.deepcopy(config))
    if pretrained_backbone is not None:
        model.encoder.backbone.load_state_dict(load_pretrained_backbone(pretrained_backbone).state_dict())
    if earlier is not None:  # the objective has no weights, and may be another one than the earlier run's
        saved = read_trained_model(earlier)
        model.encoder.load_state_dict(saved.encoder.state_dict())
        model.projector.load_state_dict(saved.projector.state_dict())
    return model
