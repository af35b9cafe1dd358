"""The folder of a run: what lies where, and which run it belongs to."""

import json
from pathlib import Path
from typing import Any

import yaml

from .package_versions import package_versions

_MARKS = ("recipe.yaml", "metrics.jsonl", "encoder", "pretraining", "results.json")


def check_free(folder: str | Path, resume: str | None) -> None:
    """
    Args:
        folder (`str` or `Path`): `output_dir`.
        resume (`str`, *optional*): What the user asked to continue from.

    Raises:
        ValueError: If the folder holds a run and this one does not continue it.
    """
    folder = Path(folder)
    found = [name for name in _MARKS if (folder / name).exists()]
    found += [path.name for path in sorted(folder.glob("checkpoint-*"))]
    if found and resume is None:
        raise ValueError(
            f"`output_dir` {str(folder)!r} holds another run ({', '.join(found[:6])}). Continue it with "
            "`--resume`, or give this one another name with `--output_dir`."
        )


def write_run_facts(folder: str | Path, recipe: dict[str, Any]) -> None:
    """Write `recipe.yaml` and `versions.json`, the latter with the commit of this package where it is a checkout."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The Trainer's arguments turn some of their dicts into objects.
    recipe = {key: value.to_dict() if hasattr(value, "to_dict") else value for key, value in recipe.items()}
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=110), encoding="utf-8"
    )
    (folder / "versions.json").write_text(json.dumps(package_versions(), indent=2) + "\n", encoding="utf-8")
