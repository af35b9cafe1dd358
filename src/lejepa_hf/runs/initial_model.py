"""The model of a run before its first step: fresh, with a pretrained backbone, or that of an earlier run."""

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ..configuration_lejepa import LeJEPAConfig, resolve_backbone_config
from ..hub.trained_model import read_trained_model, trained_folder
from ..model.backbone import load_pretrained_backbone, prepare_config, pretrained_config
from ..model.loading_errors import explained
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.damaged_files import read_json
from .arguments import ModelArguments, Recipe

logger = logging.getLogger("lejepa_hf")

_FILES = ["pretraining/*.json", "pretraining/*.safetensors"]
_OF_THE_NETWORK = ("pooling", "projector_dims", "projector_norm")


def find_earlier_run(recipe: Recipe) -> tuple[ModelArguments, Path | None]:
    """
    Find the backbone and projector that `continue_from` names; return their folder, None without `continue_from`, and
    the recipe's model arguments, completed by those of the earlier run that describe the network. A recipe that
    describes another network is refused.
    """
    model = recipe.model
    if model.continue_from is None:
        return model, None
    folder = _folder_of(model.continue_from)
    saved = LeJEPAConfig.from_pretrained(folder)
    there = {key: saved.to_dict()[key] for key in _OF_THE_NETWORK}
    given = {key: (there[key], vars(model)[key]) for key in _OF_THE_NETWORK if key in recipe.given}
    # Compared as JSON, as which the saved values were written: tuples become lists.
    changed = [
        f"`{key}` is {there!r} there, {here!r} here"
        for key, (there, here) in (_backbone_keys(model, saved) | given).items()
        if json.dumps(there, default=str) != json.dumps(here, default=str)
    ]
    if changed:
        raise ValueError(
            f"`continue_from` {model.continue_from!r} has another network: {'; '.join(changed)}. Use its values, "
            "or leave these keys out; `pretrained_backbone` starts from its encoder alone."
        )
    logger.info(f"Backbone and projector continue from {model.continue_from}; optimizer and steps start from 0.")
    if saved.directions_seed == recipe.training.seed:
        logger.warning(
            f"`seed` {recipe.training.seed} was that run's too, so that its crops and directions are repeated: "
            "set another `--seed`."
        )
    return replace(model, **{key: value for key, value in there.items() if key not in given}), folder


def build_config(arguments: ModelArguments, seed: int = 0, earlier: Path | None = None) -> LeJEPAConfig:
    """
    The config of a run's model. `seed` fixes SIGReg's directions; `earlier` is the folder from
    [`find_earlier_run`], which `continue_from` needs.
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


def _folder_of(name: str) -> Path:
    if Path(name).is_dir():
        try:
            folder = trained_folder(name)
        except ValueError as error:
            raise ValueError(f"`continue_from` {error}") from None
    else:
        repo_id, _, revision = name.partition("@")
        with explained("continue_from", name):
            folder = Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=_FILES)) / "pretraining"
    config = folder / "config.json"
    if not config.is_file() or read_json(config).get("model_type") != "lejepa":
        raise ValueError(
            f"`continue_from` {name!r} has no pretraining/, the backbone with its projector: start from its encoder "
            "alone, with `pretrained_backbone`."
        )
    return folder


def _backbone_keys(model: ModelArguments, saved: LeJEPAConfig) -> dict[str, tuple[Any, Any]]:
    """The value in the earlier run and in this one of each key of the backbone that the recipe gives."""
    if model.backbone_config is None:
        return {}
    there, here = resolve_backbone_config(saved.backbone_config), resolve_backbone_config(model.backbone_config)
    if there.model_type != here.model_type:
        return {"backbone_config.model_type": (there.model_type, here.model_type)}
    prepare_config(here)
    keys = [key for key in model.backbone_config if key != "attn_implementation"]  # which computes the same
    return {f"backbone_config.{key}": (getattr(there, key), getattr(here, key)) for key in keys}
