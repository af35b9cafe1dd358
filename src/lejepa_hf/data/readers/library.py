"""Errors of the libraries that readers use -> a message with the way out."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


def is_installed(packages: str) -> bool:
    """Whether the first of some packages, as `pip install` names them, can be imported."""
    return importlib.util.find_spec(packages.split()[0].replace("-", "_")) is not None


@contextmanager
def library_for(name: str, packages: str, misread: bool = False) -> Iterator[None]:
    """
    Name the libraries that a format needs, and turn what the first one raises for damaged files into ValueError.

    Args:
        name (`str`): Name of the format, for messages.
        packages (`str`): Packages to install, the one that is imported first.
        misread (`bool`, *optional*, defaults to `False`): Whether PIL would open the file, but with wrong values.
    """
    package = packages.split()[0]
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        why = f"PIL misreads this {name}; {package} reads it" if misread else f"{package} reads this {name}"
        raise ValueError(f"{why}: `pip install {packages}`, or save the image as .npy.") from error
    except (ValueError, Image.DecompressionBombError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:  # of the file system, which may answer later
            raise
        raise _failed(name, package, error) from error
    except Exception as error:
        raise _failed(name, package, error) from error


def _failed(name: str, package: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"{package} cannot read this {name}: {type(error).__name__}: {reason}")
