"""What outlasts a power cut."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """
    Wait until a file, or the names in a folder, are on the disk.

    Args:
        path (`Path`): Existing.

    Raises:
        OSError: If the disk reports an error only now.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
