"""An encoder folder that is either complete or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# What an export before this one may have left and this one does not write: it would belong to other weights.
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "model.onnx*")


@contextmanager
def written_aside(folder: str | Path) -> Iterator[Path]:
    """
    A folder to write into, which takes its name when the block has ended without an error.

    Where `folder` exists already, files of the same names are replaced, and weights in other files removed; whatever
    else lies there stays. After an error, or a kill, it is as it was.

    Args:
        folder (`str` or `Path`): Where the files are to be.

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
        _publish(aside, folder)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"The encoder could not be written into {str(folder)!r} ({error}): make room there, or choose another "
            "folder."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, folder: Path) -> None:
    if not folder.exists():
        aside.rename(folder)
        return
    written = list(aside.iterdir())
    stale = {path for form in _WEIGHTS for path in folder.glob(form)} - {folder / path.name for path in written}
    for path in written:
        path.replace(folder / path.name)
    for path in stale:
        path.unlink()
