"""StreamReader: one reader's endless, shuffled share of a stream, which can be resumed at any row."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from .dataset_kinds import Stream
from .errors import DataError
from .network import MAX_RETRIES, read_through

_OPEN_UNITS = 4  # read side by side, so that shards sorted by class mix
_READ_ROWS = 32  # rows a read; larger reads only cost memory


@dataclass(eq=False)
class StreamReader:
    """
    A share of a stream's rows in each epoch; no row is in the shares of two of the `num_readers` readers.

    Readers share units: shards, or every n-th row of a shard where there are fewer shards than readers. The units of
    an epoch are put in an order that follows from (key, epoch) and dealt like cards, and the next epoch continues
    where the last one stopped: at any time readers differ by at most one unit, however many epochs have passed. A
    reader reads a few of its units side by side through a shuffle buffer.
    """

    dataset: Stream
    number: int
    num_readers: int
    key: list[int]
    buffer_size: int
    name: str = ""  # follows the place of a row in messages
    max_retries: int = MAX_RETRIES

    def __post_init__(self) -> None:
        self.num_shards: int = self.dataset.num_shards
        self.parts = math.ceil(self.num_readers / self.num_shards)

    def rows(self, epoch: int = 0, taken: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """
        Read rows without end: (epoch, number of the row within the epoch's share, counted from 1, row with its place
        as `where`). Of the first epoch `taken` rows are skipped; they are read, not decoded.
        """
        current = _Pass(self, epoch)
        while True:
            upcoming, number = _Pass(self, epoch + 1), 0
            for number, row in enumerate(current, 1):
                if current.exhausted:
                    upcoming.fill_one()  # while this epoch's buffer runs empty: no pause between two epochs
                if number > taken:
                    yield epoch, number, row
            # A reader whose own units are empty continues: other epochs deal it other units.
            if not number and not any(True for unit in range(self.num_shards * self.parts) for _ in self.read(unit)):
                raise DataError(f"The stream{self.name} has no rows.")
            current, taken, epoch = upcoming, 0, epoch + 1

    def units(self, epoch: int) -> list[int]:
        """Numbers of the units of this reader in an epoch, in reading order: shard times parts plus part."""
        num_units = self.num_shards * self.parts
        order = np.random.default_rng([*self.key, epoch]).permutation(num_units)
        return order[(self.number - epoch * num_units) % self.num_readers :: self.num_readers].tolist()

    def read(self, unit: int) -> Iterator[dict[str, Any]]:
        """Rows of a unit, in the order of the shard."""
        shard, part = divmod(unit, self.parts)
        name = f"shard {shard} of {self.num_shards}{self.name}"
        number = 0
        try:
            for number, row in enumerate(read_through(lambda: self._open(shard), name, self.max_retries), 1):
                if (number - 1) % self.parts == part:
                    yield {**row, "where": f"row {number - 1} of {name}"}
        except DataError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}. Replace the file, or leave it out of `dataset`."
            raise DataError(f"{name} cannot be read on after {number} rows: {reason}") from error

    def _open(self, shard: int) -> Iterator[dict[str, Any]]:
        # `iter`, since iterating a dataset splits it over the loader's workers, which is done here.
        for batch in self.dataset.shard(self.num_shards, shard).iter(_READ_ROWS):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))


class _Pass:
    """The share of a reader in one epoch, through the shuffle buffer."""

    def __init__(self, reader: StreamReader, epoch: int) -> None:
        self._reader, self._epoch, self._size = reader, epoch, reader.buffer_size
        self._random = np.random.default_rng([*reader.key, epoch, 1 + reader.number])
        self._source, self.exhausted = self._interleaved(), False
        self._buffer: list[dict[str, Any]] = []

    def _interleaved(self) -> Iterator[dict[str, Any]]:
        """A row from one of the open units, then from another."""
        waiting = map(self._reader.read, self._reader.units(self._epoch))
        units = list(islice(waiting, _OPEN_UNITS))
        while units:
            place = int(self._random.integers(len(units)))
            for row in units[place]:
                yield row
                break
            else:
                units[place : place + 1] = islice(waiting, 1)

    def fill_one(self) -> None:
        """Read a row ahead, in the place of one that left the buffer of the epoch before."""
        self._buffer += islice(self._source, 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._buffer += islice(self._source, max(0, self._size - len(self._buffer)))
        for row in self._source:
            place = int(self._random.integers(self._size))
            row, self._buffer[place] = self._buffer[place], row
            yield row
        self.exhausted = True
        self._random.shuffle(self._buffer)
        while self._buffer:
            yield self._buffer.pop()
