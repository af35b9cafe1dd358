"""Files and folders that take their names only when they are complete and on the disk."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: the disk, a quota or a size limit is full


def flush(path: Path) -> None:
    """
    Wait until an existing file, or the names in a folder, are on the disk. Windows opens no folder, and keeps the
    names in it without being asked.
    """
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only what it may write
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def complete_file(file: Path) -> Iterator[Path]:
    """
    Yield a name beside `file` to write to. The file takes its own name, and replaces an earlier one, when the block
    ends without an error: neither a kill nor a power cut leaves half a file under that name. An OSError names a file.
    """
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        yield unfinished
        flush(unfinished)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)  # a full disk needs the room
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(file)  # that of a failed write is not known to Python
        raise
    unfinished.replace(file)
    flush(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8 as [`complete_file`] does; its folder is made if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def publish_folder(written: Path, folder: Path) -> None:
    """Give a finished folder its final name on the same disk, replacing another, when all of it is written there."""
    for path in [*written.rglob("*"), written]:
        flush(path)
    if folder.exists():
        shutil.rmtree(folder)
    written.rename(folder)
    flush(folder.parent)


@contextmanager
def complete_folder(folder: str | Path, stale: Sequence[str]) -> Iterator[Path]:
    """
    Yield an empty folder beside `folder` to write into; its files move there together when the block ends.

    Files of the same names are replaced, and files that match a pattern of `stale` removed unless written again; other
    files stay. After an error `folder` is as it was. OSError if there is no room or no permission.
    """
    folder = Path(folder).resolve()  # through links, and "." has no name
    aside = folder.with_name(f"_{folder.name}_being_written")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        if folder.exists():
            _replace_files(aside, folder, stale)
        else:
            publish_folder(aside, folder)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Files could not be written into {str(folder)!r} ({error}): make room there, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace_files(written: Path, folder: Path, stale: Sequence[str]) -> None:
    files = list(written.iterdir())
    for path in files:
        flush(path)
    before = {path for pattern in stale for path in folder.glob(pattern)}
    for path in files:
        path.replace(folder / path.name)
    for path in before - {folder / path.name for path in files}:
        path.unlink()
    flush(folder)
