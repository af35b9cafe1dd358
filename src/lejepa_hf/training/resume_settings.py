"""Settings that must not change when a run is resumed: written into checkpoints and compared."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from ..data.multi_crop import MultiCropTransform

logger = logging.getLogger("lejepa_hf")

_FILE = "resume_settings.json"
# Keys in checkpoints of version 0.1.0.
_RENAMED = {"images SIGReg judges at once": "images_per_statistic", "images of the dataset": "dataset_images"}
_BEFORE = {"class_balanced": False}  # in checkpoints without this key
_NOT_OF_THE_MODEL = ("transformers_version", "architectures", "dtype", "_name_or_path", "_attn_implementation")


def flat_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A model's config as `a.b: value` pairs, without keys that do not change the network."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in _NOT_OF_THE_MODEL:
            continue
        if isinstance(value, dict) and value:
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def run_settings(
    args: TrainingArguments, model_config: dict[str, Any], views: MultiCropTransform, **data: int | str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The settings of a run that must not change when it is resumed, among them `data`, and those that may, by key.
    `data` are the global batch, the images in one SIGReg statistic, the number of training images, if it is known, and
    what identifies these images.
    """
    fixed = {
        **flat_config(model_config),
        **dataclasses.asdict(views),
        "seed": args.seed,
        "data_seed": args.data_seed,
        **data,
        "optim": str(OptimizerNames(args.optim).value),
    }
    names = ("learning_rate", "weight_decay", "max_steps", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs")
    free = {name: vars(args)[name] for name in (*names, "max_grad_norm", "bf16", "fp16")}
    free["processes"] = args.world_size
    return fixed, free


def write_settings(checkpoint: str | Path, fixed: dict[str, Any], free: dict[str, Any], world_size: int) -> None:
    """Write the settings of [`run_settings`] and the number of processes into an existing checkpoint folder."""
    content = {"world_size": world_size, "fixed": fixed, "free": free}
    text = json.dumps(content, indent=1, default=str) + "\n"
    (Path(checkpoint) / _FILE).write_text(text, encoding="utf-8")


def read_settings(checkpoint: str | Path) -> dict[str, Any]:
    """`world_size`, `fixed` and `free`, as [`write_settings`] wrote them; empty for a checkpoint of early versions."""
    path = Path(checkpoint) / _FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def compare_settings(checkpoint: str | Path, fixed: dict[str, Any], free: dict[str, Any]) -> None:
    """
    Refuse to resume from a checkpoint if a setting changed that must not; all such keys are named with both values.
    Changes of other settings are logged. Checkpoints of early versions without settings are not compared.
    """
    saved = read_settings(checkpoint)
    if not saved:
        return
    # To JSON and back, as the saved ones: tuples become lists, enumerations text.
    fixed, free = json.loads(json.dumps([fixed, free], default=str))
    before = _BEFORE | {_RENAMED.get(key, key): value for key, value in saved["fixed"].items()}
    changed = _differences(before, fixed)
    if changed:
        raise ValueError(
            f"`resume` {str(checkpoint)!r} belongs to a run with other settings: {'; '.join(changed)}. Set them back, "
            "or start a new run with another `output_dir`."
        )
    for change in _differences(saved["free"], free):
        logger.warning(f"Changed since the checkpoint: {change}.")


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Keys with different values, among those that both have: a version may add new ones."""
    return [f"`{key}` was {saved[key]!r}, is {now[key]!r}" for key in saved if key in now and saved[key] != now[key]]
