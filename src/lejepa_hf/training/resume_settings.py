"""What a run must keep when it is resumed, written into its checkpoints and compared."""

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger("lejepa_hf")

_FILE = "resume_settings.json"
_NOT_OF_THE_MODEL = ("transformers_version", "architectures", "dtype", "_name_or_path", "_attn_implementation")


def flat_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A model's config as `a.b: value` pairs, without what does not change the network."""
    flat = {}
    for key, value in config.items():
        if key in _NOT_OF_THE_MODEL:
            continue
        if isinstance(value, dict) and value:
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def write_settings(checkpoint: str | Path, fixed: dict[str, Any], free: dict[str, Any], world_size: int) -> None:
    """
    Args:
        checkpoint (`str` or `Path`): Existing folder.
        fixed (`dict`): What a resumed run must share, by key.
        free (`dict`): What it may change, and what then is said.
        world_size (`int`): Processes of this run, each of which leaves files of its own in the checkpoint.
    """
    content = {"world_size": world_size, "fixed": fixed, "free": free}
    (Path(checkpoint) / _FILE).write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def saved_world_size(checkpoint: str | Path) -> int | None:
    """Processes of the run that wrote a checkpoint; None where it does not say."""
    path = Path(checkpoint) / _FILE
    return json.loads(path.read_text(encoding="utf-8"))["world_size"] if path.is_file() else None


def compare_settings(checkpoint: str | Path, fixed: dict[str, Any], free: dict[str, Any]) -> None:
    """
    Logs what changed and may change. Checkpoints of earlier versions, which do not say, are not compared.

    Args:
        checkpoint (`str` or `Path`): Resumed from.
        fixed (`dict`): As in [`write_settings`], of the run that resumes.
        free (`dict`): The same.

    Raises:
        ValueError: If something changed that must not; all such keys are named with both values.
    """
    path = Path(checkpoint) / _FILE
    if not path.is_file():
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    # Through JSON, as the saved ones went: tuples become lists, enumerations text.
    fixed, free = json.loads(json.dumps([fixed, free], default=str))
    changed = _differences(saved["fixed"], fixed)
    if changed:
        raise ValueError(
            f"`resume` {str(checkpoint)!r} belongs to a run with other settings: {'; '.join(changed)}. Set them back, "
            "or start a new run with another `output_dir`."
        )
    for change in _differences(saved["free"], free):
        logger.warning(f"Changed since the checkpoint: {change}.")


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Keys that both know, for a version may bring new ones, and whose values differ."""
    return [f"`{key}` was {saved[key]!r}, is {now[key]!r}" for key in saved if key in now and saved[key] != now[key]]
