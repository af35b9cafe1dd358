"""A folder that one command at a time writes to."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_LOCK, _HOLDER = ".lock", ".lock_holder.json"
_DYING = 15.0  # seconds that what a killed process started may outlive it
_locked: set[Path] = set()  # folders that this process holds


class FolderInUse(ValueError):
    """Another process is writing to a folder; the message names it and its machine."""


@contextmanager
def locked_folder(folder: str | Path) -> Iterator[None]:
    """
    Hold a folder, made if missing, so that no other process writes to it. The lock ends with the process, even after a
    kill. A process that holds the folder already may hold it again. A folder whose other files are all gone in the end
    is deleted, unless it was there and empty.

    Raises:
        FolderInUse: If another process holds it; at once.
        OSError: If the folder cannot be written to.
    """
    folder = Path(folder).resolve()
    if folder in _locked:
        yield
        return
    was_empty = folder.is_dir() and not any(folder.iterdir())
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=_DYING if _is_gone(_read_holder(folder)) else 0)
    except Timeout:
        raise FolderInUse(f"{str(folder)!r} is being written by {_describe(_read_holder(folder))}.") from None
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    (folder / _HOLDER).write_text(json.dumps(holder), encoding="utf-8")
    _locked.add(folder)
    try:
        yield
    finally:
        _locked.discard(folder)
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()
        if not was_empty and folder.is_dir() and [path.name for path in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()


def clear_folder(folder: Path) -> None:
    """Delete all files in a folder that this process holds; it stays held."""
    for path in folder.iterdir():
        if path.name not in (_LOCK, _HOLDER):
            path.unlink()


def _read_holder(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nobody holds it, or somebody is just about to
        return {}


def _is_gone(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname() or os.name == "nt":  # where signal 0 would end the process
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user
        return False
    return False


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['process']} on {holder['host']} since {holder['since']}"
