"""A folder that one command at a time writes to."""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .error_text import reason_of

logger = logging.getLogger("lejepa_hf")

_LOCK, _HOLDER = ".lock", ".lock_holder.json"
_DYING = 15.0  # seconds for which children of a killed process may outlive it and hold its lock
_locked: set[Path] = set()  # folders that this process holds


@contextmanager
def locked_folder(folder: str | Path, field: str, wait: bool = False) -> Iterator[None]:
    """
    Hold a folder, made if missing, so that no other process writes to it. The lock ends with the process, even after a
    kill. A process that holds the folder already may hold it again, without `wait`. If nothing is left in the folder
    at the end, it is deleted, unless it existed and was empty before. With `wait`, another process or thread that
    holds it is waited for, and the folder stays.

    Raises:
        ValueError: If another process holds the folder and `wait` is not set, at once, or it cannot be written to.
            The message calls it by the name of the argument, `field`.
    """
    folder = Path(folder).resolve()
    if folder in _locked and not wait:  # who waits does so for other threads too
        yield
        return
    try:
        was_empty = folder.is_dir() and not any(folder.iterdir())
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(folder, field, wait)
    except OSError as error:
        raise ValueError(
            f"{field} {str(folder)!r} cannot be written to ({reason_of(error)}): choose another {field}."
        ) from error
    _locked.add(folder)
    try:
        yield
    finally:
        _locked.discard(folder)
        try:
            (folder / _HOLDER).unlink(missing_ok=True)
        finally:
            lock.release()
        is_kept = was_empty or wait or not folder.is_dir()
        if not is_kept and [path.name for path in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            folder.rmdir()


def clear_folder(folder: Path, keep: Sequence[str] = ()) -> None:
    """Delete all but the names in `keep` from a folder that this process holds; it stays held."""
    for path in folder.iterdir():
        if path.name not in (_LOCK, _HOLDER, *keep):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _acquire(folder: Path, field: str, wait: bool) -> FileLock:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=_DYING if _is_gone(_read_holder(folder)) else 0)
    except Timeout:
        message = f"{field} {str(folder)!r} is being written by {_describe(_read_holder(folder))}"
        if not wait:
            raise ValueError(f"{message}. Wait until it ends, or choose another {field}.") from None
        logger.info(f"{message}: waiting for it ...")
        lock.acquire()
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        (folder / _HOLDER).write_text(json.dumps(holder), encoding="utf-8")
    except OSError:
        lock.release()
        raise
    return lock


def _read_holder(folder: Path) -> dict[str, Any]:
    try:
        holder = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        return {"process": int(holder["process"]), "host": holder["host"], "since": holder["since"]}
    except (OSError, ValueError, TypeError, LookupError):  # nobody holds it, or somebody is just about to
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
