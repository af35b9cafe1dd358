"""Files and folders that take their names only when they are complete and on the disk."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def flush(path: Path) -> None:
    """
    Wait until a file, or the names in a folder, are on the disk.

    Windows opens no folder, and keeps the names in it without being asked.

    Args:
        path (`Path`): Existing file or folder.

    Raises:
        OSError: If the disk reports an error only now.
    """
    is_folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)  # Windows flushes only what it may write
    except PermissionError:
        if is_folder:
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def complete_file(file: Path) -> Iterator[Path]:
    """
    A path to write to; the file takes its name, and replaces an earlier one, when the block ends without an error.

    Neither a kill nor a power cut leaves half a file under that name.

    Args:
        file (`Path`): Final name, in an existing folder.

    Yields:
        `Path`: A name beside it.
    """
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        yield unfinished
        flush(unfinished)
    except BaseException:
        unfinished.unlink(missing_ok=True)  # a full disk needs the room
        raise
    unfinished.replace(file)
    flush(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8 as [`complete_file`] does; its folder is made if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def publish_folder(written: Path, folder: Path) -> None:
    """
    Give a folder its final name when everything in it is on the disk.

    Args:
        written (`Path`): A finished folder on the same disk.
        folder (`Path`): Its final name; a folder of that name is replaced.
    """
    for path in [*written.rglob("*"), written]:
        flush(path)
    if folder.exists():
        shutil.rmtree(folder)
    written.rename(folder)
    flush(folder.parent)


@contextmanager
def complete_folder(folder: str | Path, stale: Sequence[str]) -> Iterator[Path]:
    """
    A folder to write into; its files move to `folder` together when the block ends without an error.

    Where `folder` exists, files of the same names are replaced and stale ones removed; other files stay. After an
    error `folder` is as it was.

    Args:
        folder (`str` or `Path`): Where the files belong.
        stale (`Sequence[str]`): Patterns of file names that belong to what is replaced, whether written anew or not.

    Yields:
        `Path`: An empty folder beside it.

    Raises:
        OSError: If files cannot be written, for lack of room or permission.
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
