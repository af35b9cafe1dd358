"""EndlessRows: undecoded rows without end, in an order that can be taken up again at any batch."""

import zlib
from collections.abc import Iterator

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info


def _content_hash(row: dict, image_column: str, fallback: int) -> int:
    """The number that fixes a streamed image's views: free of order, workers and ranks where the bytes are at hand."""
    value = row.get(image_column)
    if isinstance(value, dict) and value.get("bytes"):
        return zlib.crc32(value["bytes"])
    return fallback


def count_rows(dataset) -> int | None:
    """Rows of a dataset, None for a stream that does not say."""
    if hasattr(dataset, "__len__"):
        return len(dataset)
    split = (dataset.info.splits or {}).get(str(dataset.split))
    return (split.num_examples or None) if split is not None else None


class EndlessRows(IterableDataset):
    """
    Rows of a dataset, shuffled anew in every epoch, each once an epoch over all ranks and workers.

    Feeds a plain `DataLoader(..., batch_size=batch_size)`: ranks and workers are told apart here, Accelerate must not
    split again. There is no epoch boundary in the loader: batches run across it and nothing is dropped.

    Args:
        dataset: Map-style (has a length and takes integers) or a `datasets.IterableDataset`.
        batch_size (`int`): Rows of one batch of one rank.
        seed (`int`): Fixes the order together with the epoch.
        rank (`int`, *optional*, defaults to 0): This process.
        world_size (`int`, *optional*, defaults to 1): Number of processes.
        start_batch (`int`, *optional*, defaults to 0): Batches each rank has consumed already. Map-style datasets
            compute the position, for any number of workers; streams read and drop the rows, without decoding, and
            need the numbers of ranks and workers that the run began with.
        image_column (`str`, *optional*, defaults to `"image"`): Where a row holds its image.
        shuffle_buffer_size (`int`, *optional*, defaults to 5000): Rows a stream's worker shuffles among.
    """

    def __init__(
        self,
        dataset,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        image_column: str = "image",
        shuffle_buffer_size: int = 5000,
    ):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size, self.start_batch = rank, world_size, start_batch
        self.image_column, self.shuffle_buffer_size = image_column, shuffle_buffer_size
        self.streams = not hasattr(dataset, "__len__")

    @property
    def max_workers(self) -> float:
        """Loader workers that find something to do: one a shard for streams, any number otherwise."""
        return self._pass(0).num_shards if self.streams else float("inf")

    def __iter__(self) -> Iterator[dict]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        return self._stream(worker, num_workers) if self.streams else self._permuted(worker, num_workers)

    def _permuted(self, worker: int, num_workers: int) -> Iterator[dict]:
        """Global position p is row `permutation[epoch][p % n]`; a batch is a run of positions, dealt to the ranks."""
        num_rows = len(self.dataset)
        order_epoch, order = None, None
        batch = self.start_batch + worker
        while True:
            first = (batch * self.world_size + self.rank) * self.batch_size
            wanted = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, num_rows)
                if epoch != order_epoch:
                    order_epoch, order = epoch, np.random.default_rng([self.seed, epoch]).permutation(num_rows)
                wanted.append((epoch, int(order[place])))
            rows = self._read([index for _, index in wanted])
            for (epoch, index), row in zip(wanted, rows, strict=True):
                yield {**row, "epoch": epoch, "index": index}
            batch += num_workers

    def _read(self, indices: list[int]) -> list[dict]:
        """Rows by number; in one call where the dataset can, which costs `datasets` a third of single ones."""
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]

    def _pass(self, epoch: int):
        """This rank's part of a stream, in the epoch's order."""
        from datasets.distributed import split_dataset_by_node

        # Not `set_epoch`: it writes to memory that the workers share, and one would change the order under another.
        order = np.random.default_rng([self.seed, epoch])
        shuffled = self.dataset.shuffle(generator=order, buffer_size=self.shuffle_buffer_size)
        strategy = "shards" if self.dataset.num_shards >= self.world_size else "auto"
        return split_dataset_by_node(shuffled, self.rank, self.world_size, strategy=strategy)

    def _stream(self, worker: int, num_workers: int) -> Iterator[dict]:
        # The loader hands out workers' batches in turn from worker 0. After a resume worker w takes the batches that
        # worker (start + w) mod W had, which are w's own only if the start is rounded down; the loader's owner drops
        # the remaining `start_batch % num_workers` batches.
        own_batches = self.start_batch // num_workers
        skip, seen, epoch = own_batches * self.batch_size, 0, 0
        while True:
            before = seen
            for row in self._pass(epoch):
                seen += 1
                if seen > skip:
                    yield {**row, "epoch": epoch, "index": _content_hash(row, self.image_column, seen)}
            if seen == before:
                return  # more workers than shards: this one has nothing, the loader goes on without it
            epoch += 1

    def batches_to_drop(self, num_workers: int) -> int:
        """Batches the loader's owner discards first, so that a resumed stream stands at `start_batch`."""
        return self.start_batch % num_workers if self.streams and num_workers else 0
