"""Uploads: the files that visitors of the page have stored, and nothing else."""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

LARGEST_UPLOAD = 64 << 20  # bytes
_MOST_BYTES = 1 << 30  # of uploads and of pictures that were made from them, together
_MOST_FILES = 4000
_CHECKSUM = re.compile("[0-9a-f]{64}")  # Gradio stores a file in a folder of this name
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_REFUSED = "This is not a file that was uploaded here, or it has been deleted: upload it again."


class Uploads:
    """
    The folder in which Gradio stores the uploads, and the pictures that the page shows. It must belong to this server
    alone. What a visitor names as an upload is used only if it is a file in there: a browser can send any path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = os.path.normcase(os.path.realpath(folder))
        self._kept: set[str] = set()

    def has(self, path: str) -> bool:
        """Whether this is the path of an upload or of a picture, by the path alone."""
        parent, name = os.path.split(path)
        above, checksum = os.path.split(parent)
        is_inside = os.path.normcase(above) == self.folder and _CHECKSUM.fullmatch(checksum) is not None
        return is_inside and name not in ("", ".", "..") and "\0" not in name

    def path_of(self, file: object) -> str:
        """The path in what an upload event contains. ValueError for anything else than a path of this folder."""
        path = file.get("path") if isinstance(file, dict) else None
        if not isinstance(path, str) or not self.has(path):
            raise ValueError(_REFUSED)
        return path

    def read(self, path: str) -> bytes:
        """The content. ValueError, always the same, for what is not a regular file in this folder."""
        if not self.has(path):
            raise ValueError(_REFUSED)
        try:
            # The flags follow no link, and do not wait for the other end of a pipe.
            with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, _FLAGS)) as opened:
                about = os.fstat(opened.fileno())
                if stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST_UPLOAD:
                    return opened.readall()
        except OSError:  # a directory, a link, deleted
            pass
        raise ValueError(_REFUSED)

    def keep(self) -> None:
        """Never delete what is in the folder now: pictures of the examples."""
        self._kept = {path for path, _ in self._files()}

    def tidy(self) -> None:
        """Delete the oldest files until at most 1 GiB and 4,000 files are left, so that the disk is never full."""
        files = [(about.st_mtime, about.st_size, path) for path, about in self._files() if path not in self._kept]
        size, number = sum(file[1] for file in files), len(files)
        for _, of_file, path in sorted(files):
            if size <= _MOST_BYTES and number <= _MOST_FILES:
                return
            with suppress(OSError):
                os.remove(path)
                os.rmdir(os.path.dirname(path))  # refused, as it should be, unless it is empty
            size, number = size - of_file, number - 1

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                with suppress(OSError):  # deleted meanwhile
                    found.append((path, os.lstat(path)))
        return found
