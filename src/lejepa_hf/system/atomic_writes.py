"""Files of an encoder that are all there, or none of them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .durable_files import flush


@contextmanager
def written_aside(folder: str | Path, stale: Sequence[str]) -> Iterator[Path]:
    """
    A folder to write into, which takes its name when the block has ended without an error.

    Where `folder` exists already, files of the same names are replaced, and stale ones removed; whatever else lies
    there stays. After an error it is as it was.

    Args:
        folder (`str` or `Path`): Where the files are to be.
        stale (`Sequence[str]`): Patterns of names that belong to what is replaced, whether written anew or not.

    Yields:
        `Path`: An empty folder beside it.

    Raises:
        OSError: If files cannot be written, for want of room or rights.
    """
    folder = Path(folder).resolve()  # through links, and "." has no name
    aside = folder.with_name(f"_{folder.name}_being_written")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        _publish(aside, folder, stale)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"The encoder could not be written into {str(folder)!r} ({error}): make room there, or choose another "
            "folder."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, folder: Path, stale: Sequence[str]) -> None:
    written = list(aside.iterdir())
    for path in [*written, aside]:
        flush(path)
    if not folder.exists():
        aside.rename(folder)
        flush(folder.parent)
        return
    before = {path for pattern in stale for path in folder.glob(pattern)}
    for path in written:
        path.replace(folder / path.name)
    for path in before - {folder / path.name for path in written}:
        path.unlink()
    flush(folder)
