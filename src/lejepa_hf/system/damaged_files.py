"""Why a file of a model or a checkpoint cannot be read, found without running anything that is in it."""

import json
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .error_text import reason_of

# What readers raise for files that are incomplete, of another kind or malicious.
READING_ERRORS = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError),
    *(OverflowError, MemoryError, SafetensorError, pickle.PickleError, zipfile.BadZipFile, struct.error, zlib.error),
)
_POINTER = b"version https://git-lfs.github.com/spec/"


def damage_of(path: Path, thorough: bool = False) -> str | None:
    """
    Why a `.safetensors`, a `.json`, a file of `torch.save` or a folder of FSDP's shards cannot be read, as one line
    with its name; None if it can be read. Of a `.yaml` only the kind is checked: its reader names what is wrong.

    Numbers in tensors are not read, except with `thorough`, which compares the checksums that `torch.save` wrote.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return f"{path.name} is not a regular file"  # a pipe may never end
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    return f"{path.name} is a git-lfs pointer instead of the file: get the file with `git lfs pull`"
            if not path.stat().st_size:
                return f"{path.name} is empty"
        return _try_to_read(path, thorough)
    except READING_ERRORS as error:
        return f"{path.name} {reading_failure(error)}"


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The content of a JSON file; a damaged one raises a ValueError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {damage_of(path)}.") from error


def first_damage(paths: Iterable[Path], thorough: bool = False) -> str | None:
    """The first damage among files; None if all of them can be read."""
    return next((damage for path in paths if (damage := damage_of(path, thorough))), None)


def reading_failure(error: BaseException) -> str:
    """
    What an error of a reader means, for a sentence about the file. PyTorch's own text recommends switching the
    protection off.
    """
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"contains `{named[1]}`, which could run code, and is not read"
    is_refused = isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error)
    reason = "not a file of tensors" if is_refused else reason_of(error).split(". ")[0]  # no advice
    return f"is damaged ({reason})"


def _try_to_read(path: Path, thorough: bool) -> str | None:
    if path.is_dir():
        from .distributed import check_shards

        check_shards(path)
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="numpy"):
            pass
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix != ".yaml":
        return _try_to_load(path, thorough)
    return None


def _try_to_load(path: Path, thorough: bool) -> str | None:
    import torch  # seconds that other callers do not need
    from transformers.trainer_pt_utils import safe_globals  # arrays, which states of random numbers hold

    is_zip = zipfile.is_zipfile(path)
    with safe_globals(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # such a file is refused anyway
        torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    if thorough and is_zip:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:
                return f"{path.name} is damaged (its checksums do not match)"
    return None
