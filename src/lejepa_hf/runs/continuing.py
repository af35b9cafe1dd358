"""A new run with the whole network of an earlier one, backbone and projector, from a folder or the Hub."""

import json
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ..configuration_lejepa import LeJEPAConfig, resolve_backbone_config
from ..hub.trained_model import read_trained_model, trained_folder
from ..model.backbone import prepare_config
from ..model.loading_errors import explained
from ..modeling_lejepa import LeJEPAForPreTraining
from .recipes import ModelArguments, Recipe

logger = logging.getLogger("lejepa_hf")

_FILES = ["pretraining/*.json", "pretraining/*.safetensors"]
_OF_THE_NETWORK = ("pooling", "projector_dims", "projector_norm")


def find_start(recipe: Recipe) -> str | Path | None:
    """
    What the weights of a run start from, with the recipe's network brought into line.

    Of a continued network the recipe's keys that nobody gave become those of that network.

    Args:
        recipe ([`Recipe`]): Its `model` is changed in place.

    Returns:
        `str` or `Path`: `pretrained_backbone`, or the folder that `continue_from` stands for; None for fresh weights.

    Raises:
        ValueError: If there is no such model, it cannot be read or stored, or the recipe asks for another network.
    """
    model = recipe.model
    if model.continue_from is None:
        return model.pretrained_backbone
    folder = _folder_of(model.continue_from)
    saved = LeJEPAConfig.from_pretrained(folder)
    changed = _differences(_backbone_keys(model, saved))
    for key in _OF_THE_NETWORK:
        if key in recipe.given:
            changed += _differences({key: (getattr(saved, key), getattr(model, key))})
        else:
            setattr(model, key, getattr(saved, key))
    if changed:
        raise ValueError(
            f"`continue_from` {model.continue_from!r} is another network: {'; '.join(changed)}. Take these keys from "
            "there, or leave them out; `pretrained_backbone` starts from its encoder alone."
        )
    logger.info(
        f"Backbone and projector go on from {model.continue_from}; the optimizer begins anew, and steps count from 0."
    )
    if saved.directions_seed == recipe.training.seed:
        logger.warning(
            f"`seed` {recipe.training.seed} was that run's too: its crops and directions come again. Another `--seed` "
            "brings new ones."
        )
    return folder


def continue_model(arguments: ModelArguments, folder: Path, seed: int = 0) -> LeJEPAForPreTraining:
    """
    Args:
        arguments ([`ModelArguments`]): Name the objective, which has no weights and may be another one.
        folder (`Path`): From [`find_start`].
        seed (`int`, *optional*, defaults to 0): Fixes the directions.

    Returns:
        [`LeJEPAForPreTraining`]: With the weights in the folder.

    Raises:
        ValueError: If weights are missing there or cannot be read.
    """
    saved = read_trained_model(folder)
    config = LeJEPAConfig(
        backbone_config=saved.config.backbone_config, **arguments.config_kwargs(), directions_seed=seed
    )
    model = LeJEPAForPreTraining(config)
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
    if not config.is_file() or json.loads(config.read_text(encoding="utf-8")).get("model_type") != "lejepa":
        raise ValueError(
            f"`continue_from` {name!r} has no pretraining/, the backbone with its projector: start from its encoder "
            "alone, with `pretrained_backbone`."
        )
    return folder


def _backbone_keys(model: ModelArguments, saved: LeJEPAConfig) -> dict[str, tuple[Any, Any]]:
    """Of each key that the recipe gives what it is there and here."""
    if model.backbone_config is None:
        return {}
    there, here = saved.backbone_config, resolve_backbone_config(model.backbone_config)
    if there.model_type != here.model_type:
        return {"backbone_config.model_type": (there.model_type, here.model_type)}
    prepare_config(here)
    keys = [key for key in model.backbone_config if key != "attn_implementation"]  # the same function
    return {f"backbone_config.{key}": (getattr(there, key), getattr(here, key)) for key in keys}


def _differences(values: dict[str, tuple[Any, Any]]) -> list[str]:
    # Through JSON, as the saved ones went: tuples become lists.
    same = {
        key: json.dumps(there, default=str) == json.dumps(here, default=str) for key, (there, here) in values.items()
    }
    return [f"`{key}` is {there!r} there, {here!r} here" for key, (there, here) in values.items() if not same[key]]
