"""What a figure was made with: versions of packages, and the commit of this one."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "scikit-learn", "lejepa-hf")


def installed_versions() -> dict[str, str]:
    """Version by name, of those that are installed."""
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    versions = {package: installed[package] for package in _PACKAGES if package in installed}
    return {"python": platform.python_version(), **versions}


def package_versions() -> dict[str, str]:
    """[`installed_versions`], and `commit` where this package is a checkout."""
    commit = code_commit()
    return installed_versions() | ({"commit": commit} if commit else {})


def code_commit(checkout: str | Path = Path(__file__).parents[3]) -> str | None:
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
