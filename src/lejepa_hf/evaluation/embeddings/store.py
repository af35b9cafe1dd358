"""EmbeddingStore: embeddings of a labelled source in files, appended in batches, mapped into memory when large."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ...data.errors import DataError
from ...system.durable_files import flush, write_text
from .image_batches import ImageBatch

logger = logging.getLogger("lejepa_hf")

_ABOUT, _FEATURES, _LABELS = "about.json", "features.f32", "labels.i64"
_BATCHES_PER_SAVE = 50  # the most that a kill can cost
_READ_WHOLE = 2**30  # bytes; larger files stay on disk


class EmbeddingStore:
    """
    A folder that holds the embeddings of some images. An unfinished one records the row to continue with.

    Args:
        folder (`Path`): Folder of the files, made if missing.

    Raises:
        DataError: If a file cannot be written; also by the methods.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._full(error) from error
        about = folder / _ABOUT
        known = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        if known.get("is_complete") and not self._is_whole(known):
            logger.warning(f"{folder}: files do not fit their record; the images are embedded again")
            known = {}
        self.next_row, self.num_images = known.get("next_row", 0), known.get("num_images", 0)
        self.dim, self.width = known.get("dim", 0), known.get("width", 0)
        self.broken = {int(number): reason for number, reason in known.get("broken", {}).items()}
        self.is_complete = known.get("is_complete", False)
        self._since_save = 0
        if not self.is_complete:  # what was written after the last save is written again
            for name, size in ((_FEATURES, 4 * self.width), (_LABELS, 8)):
                with (folder / name).open("ab") as file:
                    file.truncate(size * self.num_images)

    def _is_whole(self, known: dict) -> bool:
        sizes = {_FEATURES: 4 * known["width"] * known["num_images"], _LABELS: 8 * known["num_images"]}
        return all(
            (self.folder / name).is_file() and (self.folder / name).stat().st_size == size
            for name, size in sizes.items()
        )

    def add(self, batch: ImageBatch, features: torch.Tensor, dim: int) -> None:
        """
        Append a batch.

        Args:
            batch ([`ImageBatch`]): The next rows of the source, with labels.
            features (`torch.Tensor` of shape `(num_images, width)`): The embedding, and after it the further features
                of a probe, if there are any; fp32, on the host.
            dim (`int`): Dimension of the embedding.
        """
        if len(batch.numbers):
            self.dim, self.width = dim, features.shape[1]
            self._append(_FEATURES, np.ascontiguousarray(features.numpy(), dtype=np.float32))
            self._append(_LABELS, np.asarray(batch.labels, dtype=np.int64))
        self.num_images += len(batch.numbers)
        self.broken |= batch.broken
        self.next_row, self._since_save = batch.stop, self._since_save + 1
        if self._since_save >= _BATCHES_PER_SAVE:
            self.save()

    def _append(self, name: str, values: np.ndarray) -> None:
        try:
            with (self.folder / name).open("ab") as file:
                file.write(values.data)
        except OSError as error:
            raise self._full(error) from error

    def _append_file(self, name: str, part: "EmbeddingStore") -> None:
        try:
            with (self.folder / name).open("ab") as file, (part.folder / name).open("rb") as of_part:
                shutil.copyfileobj(of_part, file, 2**24)
        except OSError as error:
            raise self._full(error) from error

    def save(self, is_complete: bool = False) -> None:
        """Put everything added so far, and the row to continue with, onto the disk."""
        about = {"dim": self.dim, "width": self.width, "num_images": self.num_images, "next_row": self.next_row}
        about |= {"broken": self.broken, "is_complete": is_complete}
        try:
            flush(self.folder / _FEATURES)
            flush(self.folder / _LABELS)
            write_text(self.folder / _ABOUT, json.dumps(about))
        except OSError as error:
            raise self._full(error) from error
        self.is_complete, self._since_save = is_complete, 0

    def _full(self, error: OSError) -> DataError:
        return DataError(
            f"Embeddings cannot be written to {str(self.folder)!r}: {error}. Make room there, or choose another "
            "folder with `cache_dir`, and repeat the command: it continues where it stopped."
        )

    def read(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Read everything.

        Returns:
            `tuple`: Embeddings `(num_images, dim)`, labels `(num_images,)` and probe features `(num_images,
            probe_dim)`, which are the embeddings if nothing else was added. More than 1 GiB of them stay on disk,
            mapped into memory.
        """
        path, shape = self.folder / _FEATURES, (self.num_images, self.width)
        if path.stat().st_size <= _READ_WHOLE:
            features = torch.from_numpy(np.fromfile(path, dtype=np.float32).reshape(shape))
        else:
            # It is only read, but `torch.from_numpy` would warn of `mode="r"`.
            features = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="c", shape=shape))
        labels = torch.from_numpy(np.fromfile(self.folder / _LABELS, dtype=np.int64))
        return features[:, : self.dim], labels, features[:, self.dim :] if self.width > self.dim else features

    def take(self, parts: list[Path]) -> None:
        """
        Join what several processes have written, in their order, and delete it. What a single process began here is
        overwritten.

        Args:
            parts (`list[Path]`): Folders of complete stores.
        """
        for name in (_FEATURES, _LABELS):
            (self.folder / name).open("wb").close()
        self.num_images, self.broken = 0, {}
        for folder in parts:
            part = EmbeddingStore(folder)
            self._append_file(_FEATURES, part)
            self._append_file(_LABELS, part)
            self.dim, self.width = max(self.dim, part.dim), max(self.width, part.width)
            self.num_images += part.num_images
            self.broken |= part.broken
        self.save(is_complete=True)
        for folder in parts:
            shutil.rmtree(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Let only one command at a time fill a store; the others wait for it, and then find it complete.

    The lock ends with the process that holds it, even after a kill. A complete store is not locked: it may belong to
    another user and be read-only.

    Args:
        folder (`Path`): Folder of the store.
    """
    from filelock import FileLock, Timeout

    about = folder / _ABOUT
    if about.is_file() and json.loads(about.read_text(encoding="utf-8")).get("is_complete"):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info(f"Another command is embedding the same images into {folder}: waiting for it ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def default_cache() -> Path:
    """The default of the command line: a folder in `HF_HOME`, beside what is downloaded from the Hub."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "lejepa_hf" / "embeddings"


def store_name(**identity: object) -> str:
    """
    Name the folder of a store, one for each combination of values.

    Args:
        identity: Everything that the embeddings depend on; values of types that JSON knows.

    Returns:
        `str`: 24 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
