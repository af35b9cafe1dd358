"""StoredEmbeddings: all embeddings of a labelled source, an array file for each column, mapped when large."""

import json
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ...system.durable_files import complete_file, write_text
from ...system.folder_lock import clear_folder
from .parts import EmbeddingParts, explained

logger = logging.getLogger("lejepa_hf")

_RECORD = "complete.json"


class StoredEmbeddings:
    """
    The embeddings that [`join_columns`] has stored in a folder, if `is_complete`. `broken` says why images could not
    be decoded, by row of the source.
    """

    def __init__(self, folder: Path) -> None:
        self._record = folder / _RECORD
        self.broken: dict[int, str] = {}
        self._sizes: dict[Path, int] = {}
        self.is_complete = self._record.is_file()
        if self.is_complete and not self._is_read():
            logger.warning(f"{folder}: files do not fit their record; the images are embedded again")
            self.is_complete = False

    def _is_read(self) -> bool:
        """Read the record; False if it is damaged, or one of the files that it names."""
        try:
            known = json.loads(self._record.read_text(encoding="utf-8"))
            self.broken = {int(row): reason for row, reason in known["broken"].items()}
            self._sizes = {self._record.with_name(name): size for name, size in known["sizes"].items()}
            for file in self._sizes:
                np.load(file, mmap_mode="r", allow_pickle=False)  # its header alone
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False
        return all(file.stat().st_size == size for file, size in self._sizes.items())

    def read(self, most_in_memory: int) -> dict[str, torch.Tensor]:
        """Columns by name; none without images. Files of more than `most_in_memory` bytes together are mapped."""
        columns = {}
        mode: Literal["c"] | None = "c" if sum(self._sizes.values()) > most_in_memory else None
        for file in self._sizes:
            # It is only read, but `torch.from_numpy` would warn of the mode "r".
            values = np.load(file, mmap_mode=mode, allow_pickle=False)
            columns[file.stem] = torch.from_numpy(values)
        return columns

    def forget(self) -> None:
        """Let the next command embed the images again. What was read before stays valid."""
        with explained(self._record):
            self._record.unlink(missing_ok=True)


def join_columns(folder: Path, folders: list[Path]) -> None:
    """
    Store what processes have gathered in [`EmbeddingParts`], in these folders within `folder`, in their order; then
    delete all else there, also parts of another number of processes. A DataError is raised if a file cannot be
    written.
    """
    sources = [EmbeddingParts(one) for one in folders]
    sizes: dict[str, int] = {}
    broken: dict[int, str] = {}
    start, num_images = 0, sum(parts.num_images for parts in sources)
    for parts in sources:
        broken |= {start + row: reason for row, reason in parts.broken.items()}
        start += parts.next_row
    with explained(folder):
        for name in next((parts.columns for parts in sources if parts.columns), []):
            path = folder / f"{name}.npy"
            with complete_file(path) as unfinished, unfinished.open("wb") as file:
                for values in (values for parts in sources for values in parts.arrays(name)):
                    if not file.tell():
                        header = np.lib.format.header_data_from_array_1_0(values)
                        header["shape"] = (num_images, *values.shape[1:])
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(values.data)
            sizes[path.name] = path.stat().st_size
        write_text(folder / _RECORD, json.dumps({"sizes": sizes, "broken": broken}))
        clear_folder(folder, keep=(_RECORD, *sizes))
