"""Versions of the packages that a result was made with, and the commit of this one."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "scikit-learn", "lejepa-hf")


def installed_versions() -> dict[str, str]:
    """Version by name, of the packages that are installed."""
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    versions = {package: installed[package] for package in _PACKAGES if package in installed}
    return {"python": platform.python_version(), **versions}


def package_versions() -> dict[str, str]:
    """[`installed_versions`], with `commit` where this package is a git checkout."""
    commit = code_commit()
    return installed_versions() | ({"commit": commit} if commit else {})


def code_commit(checkout: str | Path = Path(__file__).parents[3]) -> str | None:
    """
    The commit of a git checkout as `git describe` names it, with `-dirty` for changed files. None where the folder is
    not the root of a checkout, since an installed package may be inside another one.
    """
    if not (Path(checkout) / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=30)
        return found.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
