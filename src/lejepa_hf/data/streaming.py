"""EndlessRows: undecoded rows without end, in an order that can be resumed at any batch."""

import contextlib
import ctypes
import multiprocessing
import os
import sys
import zlib
from collections.abc import Iterator
from itertools import count, cycle
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from .batch import POSITION
from .class_balance import ClassBalanced
from .dataset_kinds import MapStyle, Mixture, Rows, is_stream
from .network import MAX_RETRIES
from .reader_state import Progress, ReaderPosition, deal_readers
from .rows import as_row
from .stream_readers import StreamReader

_M_MMAP_THRESHOLD = -3  # malloc.h
_LAST_MOMENT = 1.0  # seconds, in which a killed run comes to its end


def _read(dataset: MapStyle, indices: list[int]) -> list[Any]:
    """
    What a dataset yields by number; in one call where PyTorch's loader makes one, which with `datasets` is a third of
    the cost.
    """
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(indices) if indices else []
    return [dataset[index] for index in indices]


def _nth(members: np.ndarray) -> np.ndarray:
    """How many entries before each one have the same member."""
    order = np.argsort(members, kind="stable")
    in_order = members[order]
    nth = np.empty(len(members), dtype=int)
    nth[order] = np.arange(len(members)) - np.searchsorted(in_order, in_order)
    return nth


def _content_hash(row: dict[str, Any], image_column: str, fallback: int) -> int:
    """The number that fixes a streamed image's views: independent of order and readers if content or name is known."""
    values = row.get(image_column)
    check = 0
    for value in values if isinstance(values, list) and values else [values]:  # several images of one object
        content = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
        content = content.encode() if isinstance(content, str) else content
        if not isinstance(content, bytes):
            return fallback
        check = zlib.crc32(content, check)
    return check


class EndlessRows(IterableDataset):
    """
    Rows of a dataset, reshuffled in every epoch, each once per epoch over all ranks and workers.

    Feeds a plain `DataLoader(..., batch_size=batch_size, num_workers=rows.num_workers(wanted))`: rows are split over
    ranks and workers here, Accelerate must not split them again. There is no epoch boundary in the loader: batches run
    across it, nothing is dropped, and no rank runs out before another.

    A row has its `epoch`, the `index` that together with it fixes its views, and `where` it stands, for messages. The
    last row of each batch has the `position` behind that batch, from which another `EndlessRows` continues.

    Args:
        dataset: Map-style (with a length, and by number rows or what [`~data.rows.as_row`] makes rows of), a
            `datasets.IterableDataset`, or a [`Mixture`] of either; each member of a mixture passes over its own rows
            in its own epochs. Or a [`ClassBalanced`] map-style dataset, whose classes are members like those.
        batch_size (`int`): Rows of one batch of one rank.
        seed (`int`): Fixes the order together with the epoch.
        rank, world_size (`int`, *optional*, defaults to 0 and 1): Number of this process, and of all processes.
        num_readers (`int`, *optional*, defaults to 1): Independent readers of a stream on each rank, see
            [`~data.stream_readers.StreamReader`]: as many as the loader has workers. Map-style datasets ignore it.
        start (`list[list[ReaderPosition]]`, *optional*): Positions to continue from instead of `num_readers`, for each
            rank those of its readers, the next one to make a batch first. With the same number of ranks the rows
            continue with the next batch, whatever the number of workers; otherwise the readers are redistributed, and
            each row still comes once per epoch. A new epoch begins only if a rank would be left without a reader.
        image_column (`str`, *optional*, defaults to `"image"`): Column of the images.
        shuffle_buffer_size (`int`, *optional*, defaults to 1000): Rows in the shuffle buffer of a reader.
        max_retries (`int`, *optional*, defaults to 8): Retries after a lost connection.
    """

    def __init__(
        self,
        dataset: "Rows | ClassBalanced",
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_readers: int = 1,
        start: list[list[ReaderPosition]] | None = None,
        image_column: str = "image",
        shuffle_buffer_size: int = 1000,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.image_column, self.shuffle_buffer_size, self.max_retries = image_column, shuffle_buffer_size, max_retries
        self.members: list[Any] = dataset.datasets if isinstance(dataset, Mixture) else [dataset]
        self.weights = dataset.weights if isinstance(dataset, Mixture) else [1.0]
        self.classes: list[np.ndarray] | None = None
        if isinstance(dataset, ClassBalanced):
            self.classes, self.members = dataset.classes, [dataset.dataset]
            self.weights = [1 / len(self.classes)] * len(self.classes)
        self.streams = any(map(is_stream, self.members))
        if self.streams:
            self.readers, self.total_readers = deal_readers(start, rank, world_size, num_readers, len(self.members))
            # Fewer shards than would spread evenly: Parquet splits further, by row groups; others stay as they are.
            enough = 2 * self.total_readers
            self.members = [member.reshard() if member.num_shards < enough else member for member in self.members]
        else:
            self.readers = [start[0][0] if start else ReaderPosition.at_start(0, len(self.weights))]

    def num_workers(self, wanted: int) -> int:
        """The most loader workers, up to `wanted`, that keep the order as it is: a divisor of a stream's readers."""
        if not self.streams or wanted == 0:
            return wanted
        return max(number for number in range(1, wanted + 1) if len(self.readers) % number == 0)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        return self._streamed(worker, num_workers) if self.streams else self._permuted(worker, num_workers)

    def _member_of_each(self, number: int, *key: int) -> np.ndarray:
        """The member, or the class, from which each of some rows comes."""
        if len(self.weights) == 1:
            return np.zeros(number, dtype=int)
        return np.random.default_rng([self.seed, *key]).choice(len(self.weights), number, p=self.weights)

    # Map-style

    def _permuted(self, worker: int, num_workers: int) -> Iterator[dict[str, Any]]:
        """Place p of a member is its row `permutation[p // n][p % n]`; a global batch takes the next places."""
        lengths = np.array([len(part) for part in self.classes or self.members])
        orders: list[tuple[int, np.ndarray]] = [(-1, np.empty(0, dtype=int))] * len(lengths)
        _, first_batch, passes = self.readers[0]
        places = np.array([epoch * length + taken for (epoch, taken), length in zip(passes, lengths, strict=True)])
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for batch in count(first_batch):
            of_member = self._member_of_each(self.world_size * self.batch_size, batch)
            behind = places + np.bincount(of_member, minlength=len(lengths))
            if (batch - first_batch) % num_workers == worker:
                wanted = []
                for member, place in zip(of_member[own], (places[of_member] + _nth(of_member))[own], strict=True):
                    epoch, place = divmod(int(place), int(lengths[member]))
                    if orders[member][0] != epoch:
                        random = np.random.default_rng([self.seed, epoch, member])
                        orders[member] = epoch, random.permutation(lengths[member])
                    index = orders[member][1][place]
                    wanted.append((epoch, int(index if self.classes is None else self.classes[member][index])))
                rows = self._rows(wanted, of_member[own] if self.classes is None else np.zeros(len(wanted), dtype=int))
                ahead = [Progress(*divmod(int(p), int(length))) for p, length in zip(behind, lengths, strict=True)]
                rows[-1][POSITION] = ReaderPosition(0, batch + 1, ahead)
                yield from rows
            places = behind

    def _rows(self, wanted: list[tuple[int, int]], of_member: np.ndarray) -> list[dict[str, Any]]:
        """The rows of these epochs and numbers, each from its member."""
        rows: list[dict[str, Any]] = [{}] * len(wanted)
        for member in np.unique(of_member).tolist():
            among = np.flatnonzero(of_member == member).tolist()
            found = _read(self.members[member], [wanted[place][1] for place in among])
            for place, row in zip(among, found, strict=True):
                epoch, index = wanted[place]
                where = f"row {index}{self._name(member)}"
                rows[place] = {**as_row(row, self.image_column), "epoch": epoch, "index": index, "where": where}
        return rows

    # Streams

    def _streamed(self, worker: int, num_workers: int) -> Iterator[dict[str, Any]]:
        """A batch from each reader of this worker in turn; all workers together take one from each of the rank."""
        own = [self._batches(position) for position in self.readers[worker::num_workers]]
        for batches in cycle(own):
            yield from next(batches)

    def _batches(self, position: ReaderPosition) -> Iterator[Iterator[dict[str, Any]]]:
        """The batches of a reader."""
        members = []
        for member, (dataset, progress) in enumerate(zip(self.members, position.passes, strict=True)):
            key, size, name = [self.seed, member], self.shuffle_buffer_size, self._name(member)
            reader = StreamReader(dataset, position.reader, self.total_readers, key, size, name, self.max_retries)
            members.append(reader.rows(*progress))
        passes = list(position.passes)

        def rows(batch: int) -> Iterator[dict[str, Any]]:
            of_member = self._member_of_each(self.batch_size, batch, position.reader)
            for number, member in enumerate(of_member.tolist(), 1):
                epoch, taken, row = next(members[member])
                passes[member] = Progress(epoch, taken)
                row["epoch"], row["index"] = epoch, _content_hash(row, self.image_column, taken)
                if number == self.batch_size:
                    row[POSITION] = ReaderPosition(position.reader, batch + 1, list(passes))
                yield row

        return map(rows, count(position.batches))

    def _name(self, member: int) -> str:
        return f" of mixed dataset {member}" if len(self.members) > 1 else ""


def prepare_worker(worker: int) -> None:
    """Prepare a worker process of a loader, as its `worker_init_fn`."""
    # glibc shall return freed blocks of at least 1 MiB to the system. By default it raises that limit to 32 MiB as
    # soon as one such block is freed: batches then lie between the images of the shuffle buffer, and the holes they
    # leave double a worker's memory. Without glibc nothing is done.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    # Clusters send SIGTERM to the process group of a run. Workers that died of it would end the run before its
    # checkpoint; in a group of their own they live until the run ends, which they notice.
    with contextlib.suppress(OSError, AttributeError):
        os.setpgid(0, 0)
    sys.excepthook = _report_unless_the_run_has_ended


def _report_unless_the_run_has_ended(*raised: Any) -> None:  # noqa: ANN401
    """Print an error, unless the run was killed: the thread that hands over batches then fails, as expected."""
    run = multiprocessing.parent_process()
    if run is not None:
        run.join(_LAST_MOMENT)
    if run is None or run.is_alive():
        sys.__excepthook__(*raised)
