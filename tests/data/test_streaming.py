import itertools
import pickle
import zlib
from collections import defaultdict

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lejepa_hf.data.streaming import EndlessRows, count_rows

BATCH = 4


def take(dataset, num_batches: int, num_workers: int = 0, **settings) -> list[list[dict]]:
    """Batches as the Trainer's loader gives them."""
    rows = EndlessRows(dataset, batch_size=BATCH, **{"seed": 0, **settings})
    loader = DataLoader(rows, batch_size=BATCH, num_workers=num_workers, collate_fn=list)
    drop = rows.batches_to_drop(num_workers)
    return list(itertools.islice(loader, drop, drop + num_batches))


def keys(batches: list[list[dict]]) -> list[list[tuple]]:
    return [[(row["epoch"], row["index"]) for row in batch] for batch in batches]


def by_epoch(batches: list[list[dict]]) -> dict[int, list[int]]:
    epochs = defaultdict(list)
    for row in itertools.chain(*batches):
        epochs[row["epoch"]].append(row["index"])
    return epochs


# Map-style

ROWS = [{"value": i * i} for i in range(30)]  # 30 is no multiple of any global batch below


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_union_of_ranks_and_workers_is_the_single_process_sequence(world_size, num_workers):
    num_batches = 24 // world_size  # 96 rows: three epochs and a bit
    ranks = [take(ROWS, num_batches, num_workers, rank=rank, world_size=world_size) for rank in range(world_size)]
    dealt = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert [len(batch) for batch in dealt] == [BATCH] * 24
    epochs = by_epoch(dealt)
    assert all(sorted(epochs[epoch]) == list(range(30)) for epoch in range(3))
    assert all(row["value"] == row["index"] ** 2 for row in itertools.chain(*dealt))
    assert keys(dealt) == keys(take(ROWS, 24))


def test_order_follows_from_seed_and_epoch():
    epochs = by_epoch(take(ROWS, 30))
    orders = [epochs[epoch] for epoch in range(4)]
    assert all(first != second for first, second in itertools.combinations([*orders, list(range(30))], 2))
    assert keys(take(ROWS, 30)) == keys(take(ROWS, 30))
    assert by_epoch(take(ROWS, 30, seed=1))[0] != orders[0]
    # seed 1 in epoch 0 is not seed 0 in epoch 1
    assert by_epoch(take(ROWS, 30, seed=1))[0] != orders[1]


def test_shuffle_is_uniform():
    first = np.array([by_epoch(take(ROWS, 1, seed=seed))[0] for seed in range(1500)])
    counts = np.bincount(first.flatten(), minlength=30)
    expected = 1500 * BATCH / 30
    assert ((counts - expected) ** 2 / expected).sum() < 58  # 29 degrees of freedom: once in a thousand seeds


def test_epochs_meet_inside_a_batch():
    batches = take(ROWS, 8)
    assert [row["epoch"] for row in batches[7]] == [0, 0, 1, 1]
    assert sorted(by_epoch(batches)[0]) == list(range(30))


def test_a_batch_larger_than_the_dataset():
    epochs = by_epoch(take(ROWS[:3], 6))
    assert {epoch: sorted(indices) for epoch, indices in epochs.items()} == {e: [0, 1, 2] for e in range(8)}


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("start_batch", [1, 5, 16])
@pytest.mark.parametrize("world_size", [1, 2])
def test_resume_continues_the_run(start_batch, num_workers, world_size):
    settings = {"rank": world_size - 1, "world_size": world_size}
    uninterrupted = keys(take(ROWS, start_batch + 4, **settings))
    assert keys(take(ROWS, 4, num_workers, start_batch=start_batch, **settings)) == uninterrupted[start_batch:]


def test_map_style_takes_any_number_of_workers():
    rows = EndlessRows(ROWS, BATCH, seed=0, start_batch=5)
    assert rows.max_workers == float("inf")
    assert rows.batches_to_drop(2) == 0


def test_count_rows():
    assert count_rows(ROWS) == 30
    dataset = datasets.Dataset.from_list(ROWS)
    assert count_rows(dataset) == 30
    assert count_rows(dataset.to_iterable_dataset()) in (30, None)


# Streams


@pytest.fixture
def no_sleep(monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # else 5 s after each shuffled pass


def content(i: int) -> bytes:
    return f"image {i}".encode()


def shards(folder, sizes):
    """A stream of real Parquet files with undecoded images, counted through."""
    numbers = itertools.count()
    for shard, size in enumerate(sizes):
        image = [{"bytes": content(next(numbers)), "path": None} for _ in range(size)]
        datasets.Dataset.from_dict({"image": image}).to_parquet(folder / f"{shard}.parquet")
    files = {"train": str(folder / "*.parquet")}
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=folder)


@pytest.fixture
def stream(tmp_path, no_sleep):
    return shards(tmp_path, [6] * 4)


CONTENTS = sorted(zlib.crc32(content(i)) for i in range(24))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_stream_gives_every_row_once_an_epoch(stream, world_size, num_workers):
    num_batches = 24 // world_size  # four epochs
    ranks = [take(stream, num_batches, num_workers, rank=rank, world_size=world_size) for rank in range(world_size)]
    epochs = by_epoch(itertools.chain(*ranks))
    assert {epoch: sorted(indices) for epoch, indices in epochs.items()} == dict.fromkeys(range(4), CONTENTS)
    assert all(first != second for first, second in itertools.combinations(epochs.values(), 2))


def test_index_of_a_streamed_row_is_a_hash_of_its_bytes(stream):
    for row in itertools.chain(*take(stream, 6)):
        assert row["index"] == zlib.crc32(row["image"]["bytes"])


def test_streamed_rows_without_bytes_are_numbered(stream):
    numbers = [row["index"] for row in itertools.chain(*take(stream.select_columns([]).map(lambda row: {"x": 1}), 8))]
    assert numbers == list(range(1, 33))


def test_stream_order_follows_from_the_seed(stream):
    assert keys(take(stream, 12)) == keys(take(stream, 12))
    assert keys(take(stream, 12, seed=1)) != keys(take(stream, 12))


def test_shuffle_buffer_size(stream):
    def places(buffer_size):
        batches = take(stream, 6, shuffle_buffer_size=buffer_size)
        names = [int(row["image"]["bytes"].split()[1]) for row in itertools.chain(*batches)]
        return [place for place, name in enumerate(names) if name // 6 == names[0] // 6]

    assert max(places(100)) > 5  # rows of the first shard are spread over the epoch
    assert sorted(places(1)) != sorted(places(100))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start_batch", [1, 6, 11])
@pytest.mark.parametrize("world_size", [1, 2])
def test_stream_resume_continues_the_run(stream, start_batch, num_workers, world_size):
    settings = {"num_workers": num_workers, "rank": world_size - 1, "world_size": world_size}
    uninterrupted = keys(take(stream, start_batch + 4, **settings))
    assert keys(take(stream, 4, start_batch=start_batch, **settings)) == uninterrupted[start_batch:]


def test_batches_to_drop(stream):
    assert EndlessRows(stream, BATCH, seed=0, start_batch=7).batches_to_drop(2) == 1
    assert EndlessRows(stream, BATCH, seed=0, start_batch=8).batches_to_drop(2) == 0
    assert EndlessRows(stream, BATCH, seed=0, start_batch=7).batches_to_drop(0) == 0


@pytest.mark.parametrize(
    ("world_size", "expected"),
    [(1, [5]), (2, [3, 2]), (5, [1] * 5), (6, [5] * 6)],  # six ranks share five shards row by row
)
def test_uneven_shards(tmp_path, no_sleep, world_size, expected):
    stream = shards(tmp_path, [3, 7, 6, 2, 6])
    ranks = [EndlessRows(stream, BATCH, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [rank.max_workers for rank in ranks] == expected
    first_epoch = []
    for rank in ranks:
        first_epoch += [row["index"] for row in itertools.takewhile(lambda row: row["epoch"] == 0, rank)]
    assert sorted(first_epoch) == CONTENTS


@pytest.mark.parametrize("world_size", [1, 2])
def test_workers_do_not_change_each_others_epoch(tmp_path, no_sleep, world_size):
    # `IterableDataset.set_epoch` writes to shared memory; with tiny epochs workers meet there, and rows got lost.
    stream = shards(tmp_path, [2] * 4)
    num_epochs = 60
    ranks = [take(stream, num_epochs * 2 // world_size, 2, rank=r, world_size=world_size) for r in range(world_size)]
    epochs = by_epoch(itertools.chain(*ranks))
    expected = sorted(zlib.crc32(content(i)) for i in range(8))
    assert [epoch for epoch in range(num_epochs) if sorted(epochs[epoch]) != expected] == []


def test_more_workers_than_shards(tmp_path, no_sleep):
    stream = shards(tmp_path, [16])
    batches = take(stream, 8, num_workers=2)
    epochs = by_epoch(batches)
    assert {epoch: len(set(indices)) for epoch, indices in epochs.items()} == {0: 16, 1: 16}


@pytest.mark.parametrize("streams", [False, True])
def test_pickles(stream, streams):
    # macOS spawns workers, so that the rows travel as a pickle.
    rows = EndlessRows(stream if streams else ROWS, BATCH, seed=0, start_batch=2)
    arrived = pickle.loads(pickle.dumps(rows))
    assert list(itertools.islice(arrived, 40)) == list(itertools.islice(rows, 40))


def test_global_random_state_stays(stream):
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    next(iter(EndlessRows(stream, BATCH, seed=0))), next(iter(EndlessRows(ROWS, BATCH, seed=0)))
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
