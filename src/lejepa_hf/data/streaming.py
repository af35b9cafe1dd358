"""EndlessRows: undecoded rows without end, in an order that can be taken up again at any batch."""

import logging
import zlib
from collections.abc import Iterator
from itertools import chain, cycle

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from .mixture import Mixture
from .network import MAX_RETRIES
from .stream_readers import Lane

logger = logging.getLogger("lejepa_hf")


def _content_hash(row: dict, image_column: str, fallback: int) -> int:
    """The number that fixes a streamed image's views: free of order and readers if content or name is known."""
    value = row.get(image_column)
    content = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
    if isinstance(content, str):
        content = content.encode()
    return zlib.crc32(content) if isinstance(content, bytes) else fallback


def is_stream(dataset) -> bool:
    """Whether rows come one after the other only, without a length and without numbers."""
    members = dataset.datasets if isinstance(dataset, Mixture) else [dataset]
    return not all(hasattr(member, "__len__") for member in members)


def count_rows(dataset) -> int | None:
    """Rows of a dataset, None for a stream that does not say."""
    if isinstance(dataset, Mixture):
        counts = [count_rows(member) for member in dataset.datasets]
        return None if None in counts else sum(counts)
    if hasattr(dataset, "__len__"):
        return len(dataset)
    split = (dataset.info.splits or {}).get(str(dataset.split))
    return (split.num_examples or None) if split is not None else None


def _beginning(lane: int, num_members: int, epoch: int = 0) -> dict:
    """The position of a lane that has read nothing."""
    return {"lane": lane, "batches": 0, "passes": [[epoch, 0]] * num_members}


def _deal(
    start: list[list[dict]] | None, rank: int, world_size: int, num_lanes: int, num_members: int
) -> tuple[list[dict], int]:
    """The lanes of a rank, in the order they are due, and how many there are over all ranks."""
    if start is None:
        lanes = range(rank, world_size * num_lanes, world_size)
        return [_beginning(lane, num_members) for lane in lanes], world_size * num_lanes
    if len(start) == world_size:
        return start[rank], sum(map(len, start))
    lanes = sorted(chain(*start), key=lambda position: position["lane"])
    if len(lanes) >= world_size:
        logger.info(
            f"The stream was read by {len(start)} processes, now by {world_size}: each row still once an epoch."
        )
        return lanes[rank::world_size], len(lanes)
    epoch = 1 + max(epoch for position in lanes for epoch, _ in position["passes"])
    logger.warning(
        f"The stream was read by {len(start)} processes with {len(lanes)} readers in all, too few for {world_size}: "
        f"it goes on with epoch {epoch}, and what was left of the epoch before is passed over once."
    )
    return [_beginning(rank + world_size * i, num_members, epoch) for i in range(num_lanes)], world_size * num_lanes


class EndlessRows(IterableDataset):
    """
    Rows of a dataset, shuffled anew in every epoch, each once an epoch over all ranks and workers.

    Feeds a plain `DataLoader(..., batch_size=batch_size, num_workers=rows.num_workers(wanted))`: ranks and workers are
    told apart here, Accelerate must not split again. There is no epoch boundary in the loader: batches run across it,
    nothing is dropped, and no rank runs out before another.

    A row has its `epoch`, the `index` that together with it fixes its views, and `where` it stands for messages. The
    last row of each batch has the `position` behind that batch, from which another `EndlessRows` continues.

    Args:
        dataset: Map-style (has a length and takes integers), a `datasets.IterableDataset`, or a [`Mixture`] of either;
            each member of a mixture passes over its own rows in its own epochs.
        batch_size (`int`): Rows of one batch of one rank.
        seed (`int`): Fixes the order together with the epoch.
        rank (`int`, *optional*, defaults to 0): This process.
        world_size (`int`, *optional*, defaults to 1): Number of processes.
        num_lanes (`int`, *optional*, defaults to 1): Independent readers of a stream on each rank, see
            [`~data.stream_readers.Lane`]: as many as the loader has workers. Ignored for map-style datasets.
        start (`list[list[dict]]`, *optional*): Positions to continue from, of each rank those of its lanes in the
            order they are due. Their lanes replace `num_lanes`. With the same number of ranks the rows go on at the
            very batch, whatever the number of workers; with another one the lanes are dealt anew, still each row once
            an epoch. Only where that leaves a rank without a lane, a new epoch begins.
        image_column (`str`, *optional*, defaults to `"image"`): Where a row holds its image.
        shuffle_buffer_size (`int`, *optional*, defaults to 1000): Rows a lane shuffles among.
        max_retries (`int`, *optional*, defaults to 8): After a lost connection, see [`~data.network.read_through`].
    """

    def __init__(
        self,
        dataset,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_lanes: int = 1,
        start: list[list[dict]] | None = None,
        image_column: str = "image",
        shuffle_buffer_size: int = 1000,
        max_retries: int = MAX_RETRIES,
    ):
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.image_column, self.shuffle_buffer_size, self.max_retries = image_column, shuffle_buffer_size, max_retries
        mixed = isinstance(dataset, Mixture)
        self.members, self.weights = (dataset.datasets, dataset.weights) if mixed else ([dataset], [1.0])
        self.streams = is_stream(dataset)
        if self.streams:
            self.lanes, self.total_lanes = _deal(start, rank, world_size, num_lanes, len(self.members))
            # Fewer shards than would spread evenly: Parquet splits further, by row groups; others stay as they are.
            self.members = [
                member.reshard() if member.num_shards < 2 * self.total_lanes else member for member in self.members
            ]
        else:
            self.lanes = [start[0][0]] if start else [_beginning(0, len(self.members))]

    def num_workers(self, wanted: int) -> int:
        """
        The number of loader workers, at most `wanted`, with which the order stays what it is for any other: a divisor
        of the number of lanes for streams, any number otherwise.
        """
        if not self.streams or wanted == 0:
            return wanted
        return max(number for number in range(1, wanted + 1) if len(self.lanes) % number == 0)

    def __iter__(self) -> Iterator[dict]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        return self._streamed(worker, num_workers) if self.streams else self._permuted(worker, num_workers)

    def _member_of_each(self, number: int, *key: int) -> np.ndarray:
        """From which member each of some rows comes."""
        if len(self.members) == 1:
            return np.zeros(number, dtype=int)
        return np.random.default_rng([self.seed, *key]).choice(len(self.members), number, p=self.weights)

    # Map-style

    def _permuted(self, worker: int, num_workers: int) -> Iterator[dict]:
        """Place p of a member is its row `permutation[p // n][p % n]`; a global batch takes the next places."""
        counts = [len(member) for member in self.members]
        orders: list[tuple[int, np.ndarray]] = [(-1, np.empty(0, dtype=int))] * len(self.members)
        batch = self.lanes[0]["batches"]
        passes = self.lanes[0]["passes"]
        places = np.array([epoch * count + taken for (epoch, taken), count in zip(passes, counts, strict=True)])
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        turn = 0
        while True:
            of_member = self._member_of_each(self.world_size * self.batch_size, batch)
            batch += 1
            behind = places + np.bincount(of_member, minlength=len(counts))
            if turn % num_workers == worker:
                wanted: list[tuple[int, int, int]] = [(0, 0, 0)] * self.batch_size
                for member, count in enumerate(counts):
                    among = np.flatnonzero(of_member == member)
                    for nth in np.flatnonzero((among >= own.start) & (among < own.stop)).tolist():
                        epoch, place = divmod(int(places[member]) + nth, count)
                        if orders[member][0] != epoch:
                            orders[member] = epoch, self._permutation(member, epoch, count)
                        wanted[among[nth] - own.start] = member, epoch, int(orders[member][1][place])
                rows = self._read([(member, index) for member, _, index in wanted])
                position = {
                    "lane": 0,
                    "batches": batch,
                    "passes": [list(divmod(int(p), count)) for p, count in zip(behind, counts, strict=True)],
                }
                for number, (row, (member, epoch, index)) in enumerate(zip(rows, wanted, strict=True), 1):
                    row = {**row, "epoch": epoch, "index": index, "where": f"row {index}{self._name(member)}"}
                    yield {**row, "position": position} if number == self.batch_size else row
            places = behind
            turn += 1

    def _permutation(self, member: int, epoch: int, count: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, member]).permutation(count)

    def _read(self, wanted: list[tuple[int, int]]) -> list[dict]:
        """Rows by member and number; in one call where the dataset can, a third of the cost with `datasets`."""
        rows: list[dict] = [{}] * len(wanted)
        for member, dataset in enumerate(self.members):
            places = [place for place, (of_member, _) in enumerate(wanted) if of_member == member]
            indices = [wanted[place][1] for place in places]
            many = hasattr(dataset, "__getitems__")
            found = (dataset.__getitems__(indices) if indices else []) if many else [dataset[i] for i in indices]
            for place, row in zip(places, found, strict=True):
                rows[place] = row
        return rows

    # Streams

    def _streamed(self, worker: int, num_workers: int) -> Iterator[dict]:
        """A batch from each lane of this worker in turn; all workers together take one from each of the rank."""
        positions = [{**lane, "passes": list(lane["passes"])} for lane in self.lanes[worker::num_workers]]
        own = [(position, self._lane_rows(position)) for position in positions]
        for position, members in cycle(own):
            lane, batch = position["lane"], position["batches"]
            of_member = self._member_of_each(self.batch_size, batch, lane)
            for number, member in enumerate(of_member.tolist(), 1):
                epoch, taken, row = next(members[member])
                position["passes"][member] = [epoch, taken]
                row["epoch"], row["index"] = epoch, _content_hash(row, self.image_column, taken)
                if number == self.batch_size:
                    position["batches"] = batch + 1
                    row["position"] = {**position, "passes": list(position["passes"])}
                yield row

    def _lane_rows(self, position: dict) -> list[Iterator[tuple[int, int, dict]]]:
        """The rows of a lane, of each member."""
        return [
            Lane(
                dataset,
                position["lane"],
                self.total_lanes,
                [self.seed, member],
                self.shuffle_buffer_size,
                self._name(member),
                self.max_retries,
            ).rows(*position["passes"][member])
            for member, dataset in enumerate(self.members)
        ]

    def _name(self, member: int) -> str:
        return f" of mixed dataset {member}" if len(self.members) > 1 else ""
