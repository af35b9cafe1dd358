"""The folder of a run: what lies where, and which run it belongs to."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import yaml

_MARKS = ("recipe.yaml", "metrics.jsonl", "encoder", "pretraining", "results.json")
_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "lejepa-hf")


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
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, default_flow_style=None, width=110))
    versions = {"python": platform.python_version()}
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    versions |= {package: installed[package] for package in _PACKAGES if package in installed}
    if commit := code_commit():
        versions["commit"] = commit
    (folder / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


def code_commit(checkout: str | Path = Path(__file__).parents[2]) -> str | None:
    """
    Args:
        checkout (`str` or `Path`, *optional*): Root of a checkout; that of this package if missing.

    Returns:
        `str`: What `git describe` calls its commit, with `-dirty` for changed files; None for what is no checkout: an
        installed package may lie inside of somebody else's.
    """
    if not (Path(checkout) / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
