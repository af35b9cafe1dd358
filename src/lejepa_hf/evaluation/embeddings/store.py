"""EmbeddingStore: embeddings of a labelled source in files, appended in batches, mapped into memory when large."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from huggingface_hub.constants import HF_HOME

from ...data.errors import DataError
from ...system.durable_files import flush, write_text
from .image_batches import ImageBatch

logger = logging.getLogger("lejepa_hf")

_ABOUT, _FEATURES, _LABELS = "about.json", "features.f32", "labels.i64"
_BATCHES_PER_SAVE = 50  # the most that a kill can cost
_READ_WHOLE = 2**30  # bytes; larger files stay on disk


class EmbeddingStore:
    """
    A folder, made if missing, that holds the embeddings of some images. An unfinished one records the row to continue
    with. All methods raise a DataError if a file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _explained(self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        about = folder / _ABOUT
        known = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        if known.get("is_complete") and not all(
            (folder / name).is_file() and (folder / name).stat().st_size == known["num_images"] * size
            for name, size in _row_sizes(known["width"])
        ):
            logger.warning(f"{folder}: files do not fit their record; the images are embedded again")
            known = {}
        self.next_row, self.num_images = known.get("next_row", 0), known.get("num_images", 0)
        self.dim, self.width = known.get("dim", 0), known.get("width", 0)
        self.broken = {int(number): reason for number, reason in known.get("broken", {}).items()}
        self.is_complete = known.get("is_complete", False)
        self._since_save = 0
        if not self.is_complete:  # what was written after the last save is written again
            for name, size in _row_sizes(self.width):
                with (folder / name).open("ab") as file:
                    file.truncate(size * self.num_images)

    def add(self, batch: ImageBatch, features: torch.Tensor, dim: int) -> None:
        """
        Append the next rows of the source, with labels. The first `dim` columns of `features`, fp32 and on the host,
        are the embedding; further features of a probe may follow.
        """
        if len(batch.numbers):
            self.dim, self.width = dim, features.shape[1]
            added = {_FEATURES: np.ascontiguousarray(features.numpy(), dtype=np.float32)}
            added[_LABELS] = np.asarray(batch.labels, dtype=np.int64)
            for name, values in added.items():
                with _explained(self.folder), (self.folder / name).open("ab") as file:
                    file.write(values.data)
        self.num_images += len(batch.numbers)
        self.broken |= batch.broken
        self.next_row, self._since_save = batch.stop, self._since_save + 1
        if self._since_save >= _BATCHES_PER_SAVE:
            self.save()

    def save(self, is_complete: bool = False) -> None:
        """Put everything added so far, and the row to continue with, onto the disk."""
        about = {"dim": self.dim, "width": self.width, "num_images": self.num_images, "next_row": self.next_row}
        about |= {"broken": self.broken, "is_complete": is_complete}
        with _explained(self.folder):
            flush(self.folder / _FEATURES)
            flush(self.folder / _LABELS)
            write_text(self.folder / _ABOUT, json.dumps(about))
        self.is_complete, self._since_save = is_complete, 0

    def read(self, most_in_memory: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Embeddings `(num_images, dim)`, labels `(num_images,)` and probe features `(num_images, probe_dim)`, which are
        the embeddings if nothing else was added. More than `most_in_memory` bytes of them, 1 GiB if missing, stay on
        disk, mapped into memory.
        """
        path, shape = self.folder / _FEATURES, (self.num_images, self.width)
        if path.stat().st_size <= (_READ_WHOLE if most_in_memory is None else most_in_memory):
            features = torch.from_numpy(np.fromfile(path, dtype=np.float32).reshape(shape))
        else:
            # It is only read, but `torch.from_numpy` would warn of `mode="r"`.
            features = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="c", shape=shape))
        labels = torch.from_numpy(np.fromfile(self.folder / _LABELS, dtype=np.int64))
        return features[:, : self.dim], labels, features[:, self.dim :] if self.width > self.dim else features

    def forget(self) -> None:
        """Delete the files, so that the next command starts again. What was read from them before stays valid."""
        with _explained(self.folder):
            for name in (_ABOUT, _FEATURES, _LABELS):
                (self.folder / name).unlink(missing_ok=True)

    def take(self, parts: list[Path]) -> None:
        """
        Join the complete stores that several processes have written in these folders, in their order, and delete them.
        What a single process began here is overwritten.
        """
        stores = [EmbeddingStore(folder) for folder in parts]
        for name in (_FEATURES, _LABELS):
            with _explained(self.folder), (self.folder / name).open("wb") as file:
                for folder in parts:
                    with (folder / name).open("rb") as of_part:
                        shutil.copyfileobj(of_part, file, 2**24)
        self.dim, self.width = max(store.dim for store in stores), max(store.width for store in stores)
        self.num_images, self.next_row, self.broken = 0, 0, {}
        for store in stores:
            self.broken |= {self.next_row + number: reason for number, reason in store.broken.items()}
            self.num_images, self.next_row = self.num_images + store.num_images, self.next_row + store.next_row
        self.save(is_complete=True)
        for folder in parts:
            shutil.rmtree(folder)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Embeddings cannot be written to {str(folder)!r}: {error}. Make room there, or choose another "
            "folder with `cache_dir`, and repeat the command: it continues where it stopped."
        ) from error


def _row_sizes(width: int) -> list[tuple[str, int]]:
    """Files of a store with `width` features of each image, and the bytes that an image takes in them."""
    return [(_FEATURES, 4 * width), (_LABELS, 8)]


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a store in which all images are embedded. Changes nothing there."""
    about = folder / _ABOUT
    return about.is_file() and bool(json.loads(about.read_text(encoding="utf-8")).get("is_complete"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Let only one command at a time fill the store in a folder; the others wait for it, and then find it complete.

    The lock ends with the process that holds it, even after a kill. A complete store is not locked: it may belong to
    somebody else, and only be readable.
    """
    if is_complete(folder):
        yield
        return
    with _explained(folder):
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
    return Path(HF_HOME) / "lejepa_hf" / "embeddings"
