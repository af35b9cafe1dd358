import itertools
import logging
import math
import os
import pickle
import signal
import sys
import time
import zlib
from collections import defaultdict
from multiprocessing import get_context
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from kept_positions import written_and_read
from parquet_shards import number, shards
from torch.utils.data import DataLoader

from lejepa_hf.data.errors import DataError
from lejepa_hf.data.reader_state import advance
from lejepa_hf.data.streaming import EndlessRows, prepare_worker

BATCH, SLOW = 4, pytest.mark.slow


def run(dataset, num_batches: int, num_workers: int = 0, **settings) -> tuple[list[list[dict]], list[list[dict]]]:
    """Batches as the Trainer's loader gives them, and the readers before the first and behind each of them."""
    rows = EndlessRows(dataset, **{"batch_size": BATCH, "seed": 0, "shuffle_buffer_size": 5, **settings})
    loader = DataLoader(rows, rows.batch_size, num_workers=num_workers, collate_fn=list)
    batches, readers = list(itertools.islice(loader, num_batches)), [rows.readers]
    assert [len(batch) for batch in batches] == [rows.batch_size] * num_batches
    for batch in batches:
        assert ["position" in row for row in batch] == [False] * (rows.batch_size - 1) + [True]
        readers.append(advance(readers[-1], batch[-1]["position"]))
    return batches, [written_and_read(of_batch) for of_batch in readers]


def take(dataset, num_batches: int, num_workers: int = 0, **settings) -> list[list[dict]]:
    return run(dataset, num_batches, num_workers, **settings)[0]


def keys(batches: list[list[dict]]) -> list[list[tuple]]:
    return [[(row["epoch"], row["index"]) for row in batch] for batch in batches]


def by_epoch(batches: list[list[dict]], name=lambda row: row["index"]) -> dict[int, list[int]]:
    epochs = defaultdict(list)
    for row in itertools.chain(*batches):
        epochs[row["epoch"]].append(name(row))
    return epochs


# Map-style

ROWS = [{"value": i * i} for i in range(30)]  # 30 is no multiple of any global batch below


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_union_of_ranks_and_workers_is_the_single_process_sequence(world_size, num_workers):
    num_batches = 24 // world_size  # 96 rows: three epochs and a bit
    ranks = [take(ROWS, num_batches, num_workers, rank=rank, world_size=world_size) for rank in range(world_size)]
    dealt = [batch for step in zip(*ranks, strict=True) for batch in step]
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


@pytest.mark.slow
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


def test_a_dataset_that_reads_many_rows_at_once_gives_the_same():
    dataset = datasets.Dataset.from_list(ROWS)
    assert hasattr(dataset, "__getitems__") and not hasattr(ROWS, "__getitems__")
    assert take(dataset, 10) == take(ROWS, 10)


def test_rows_say_where_they_stand():
    for row in itertools.chain(*take(ROWS, 8)):
        assert row["where"] == f"row {row['index']}"


@pytest.mark.parametrize("num_workers", [0, 2, pytest.param(1, marks=SLOW), pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=SLOW)])
def test_resume_continues_the_run(world_size, num_workers):
    settings = {"rank": world_size - 1, "world_size": world_size}
    uninterrupted, readers = run(ROWS, 20, num_workers, **settings)
    for stop in (1, 5, 16):
        start = [readers[stop]] * world_size
        assert keys(take(ROWS, 4, num_workers, start=start, **settings)) == keys(uninterrupted[stop : stop + 4])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 3), (2, 4)])
@pytest.mark.parametrize("stop", [1, 6, 11])
def test_resume_with_another_number_of_ranks(before, after, stop):
    first = [run(ROWS, stop, rank=rank, world_size=before) for rank in range(before)]
    start = [readers[-1] for _, readers in first]
    batches = list(itertools.chain(*(batches for batches, _ in first)))
    for rank in range(after):
        batches += take(ROWS, 20, rank=rank, world_size=after, start=start)
    epochs = by_epoch(batches)
    finished = sum(map(len, batches)) // len(ROWS)
    assert {epoch: sorted(epochs[epoch]) for epoch in range(finished)} == dict.fromkeys(
        range(finished), list(range(30))
    )


def test_map_style_takes_any_number_of_workers():
    rows = EndlessRows(ROWS, BATCH, seed=0)
    assert [rows.num_workers(wanted) for wanted in (0, 1, 3, 8)] == [0, 1, 3, 8]


# Streams

SIZES = [13, 0, 6, 9, 1, 5, 11, 3]  # of at most eight shards, one of them empty
SPREADS = [  # shards, ranks, workers a rank: each pair of two of them at least once
    *[(1, 1, 0), (1, 2, 1), (1, 4, 2), (1, 1, 4), (2, 1, 1), (2, 2, 2), (2, 4, 4), (2, 1, 0), (3, 1, 2), (3, 2, 4)],
    *[(3, 4, 0), (3, 1, 1), (5, 1, 4), (5, 2, 0), (5, 4, 1), (5, 1, 2), (8, 1, 0), (8, 2, 1), (8, 4, 2), (8, 1, 4)],
]


@pytest.mark.parametrize(
    ("num_shards", "world_size", "num_workers"),
    [pytest.param(*spread, marks=SLOW if max(spread[1:]) == 4 else []) for spread in SPREADS],
)
def test_stream_gives_every_row_once_an_epoch(tmp_path, num_shards, world_size, num_workers):
    sizes = SIZES[:num_shards]
    by_row = num_workers == 2  # else shards that are too few are shared by row groups
    stream = shards(tmp_path, sizes, None if by_row else 3)
    num_readers = max(1, num_workers)
    longest = sum(sorted(sizes)[-math.ceil(num_shards / (world_size * num_readers)) :])  # share of a reader, at most
    num_batches = num_readers * math.ceil(2 * longest / BATCH)
    settings = {"world_size": world_size, "num_readers": num_readers}
    # All ranks go on equally long: each has as many batches as wanted.
    ranks = [take(stream, num_batches, num_workers, rank=rank, **settings) for rank in range(world_size)]
    epochs = by_epoch(itertools.chain(*ranks), number)
    everything = list(range(sum(sizes)))
    assert {epoch: sorted(epochs[epoch]) for epoch in range(2)} == {0: everything, 1: everything}


@pytest.fixture
def stream(tmp_path):
    return shards(tmp_path, [6] * 4)


def test_stream_order_follows_from_seed_and_epoch(stream):
    orders = by_epoch(take(stream, 24))
    assert all(orders[first] != orders[second] for first, second in itertools.combinations(range(4), 2))
    assert keys(take(stream, 24)) == keys(take(stream, 24))
    assert keys(take(stream, 12, seed=1)) != keys(take(stream, 12))


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_number_of_workers_leaves_the_order_of_the_readers(stream, num_workers):
    assert keys(take(stream, 20, num_workers, num_readers=4)) == keys(take(stream, 20, num_readers=4))


def test_number_of_readers_is_part_of_the_order(stream):
    assert keys(take(stream, 6, num_readers=2)) != keys(take(stream, 6, num_readers=4))


def test_num_workers_divides_the_readers(stream):
    rows = EndlessRows(stream, BATCH, seed=0, num_readers=6)
    assert [rows.num_workers(wanted) for wanted in range(8)] == [0, 1, 2, 3, 3, 3, 6, 6]


def test_streamed_rows_say_where_they_stand(tmp_path):
    for row in itertools.chain(*take(shards(tmp_path, [6] * 4), 6)):
        shard, place = divmod(number(row), 6)
        assert row["where"] == f"row {place} of shard {shard} of 4"


@pytest.mark.parametrize(("sizes", "units"), [([12], 4), ([6, 6], 4), ([3, 3, 3, 3], 4), ([6] * 4, 4), ([6] * 3, 6)])
def test_few_shards_are_shared_by_row_groups(tmp_path, sizes, units):
    stream = shards(tmp_path, sizes, row_group_size=3)
    for row in itertools.chain(*take(stream, 6, world_size=2)):
        assert row["where"].endswith(f" of {units}")


def test_index_of_a_streamed_row_is_a_hash_of_its_bytes(stream):
    for row in itertools.chain(*take(stream, 6)):
        assert row["index"] == zlib.crc32(row["image"]["bytes"])


def test_index_of_a_streamed_row_without_bytes(stream):
    named = stream.map(lambda row: {"image": {"bytes": None, "path": f"{len(row)}.png"}}, features=stream.features)
    assert {row["index"] for row in itertools.chain(*take(named, 3))} == {zlib.crc32(b"1.png")}
    without = stream.select_columns([]).map(lambda row: {"x": 1})
    assert [row["index"] for row in itertools.chain(*take(without, 8))] == [*range(1, 25), *range(1, 9)]


def test_classes_of_sorted_shards_are_mixed(tmp_path):
    stream = shards(tmp_path, [40] * 8)  # a class a shard
    batches = take(stream, 40, batch_size=8, shuffle_buffer_size=20)
    classes = [len({number(row) // 40 for row in batch}) for batch in batches]
    assert np.mean(classes) > 3 and min(classes) > 1


@pytest.mark.parametrize("num_workers", [0, 2, pytest.param(1, marks=SLOW), pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=SLOW)])
def test_stream_resume_continues_the_run(tmp_path, world_size, num_workers):
    stream = shards(tmp_path, SIZES, 3)
    settings = {"rank": world_size - 1, "world_size": world_size}
    uninterrupted, readers = run(stream, 35, num_workers, num_readers=max(1, num_workers), **settings)
    for stop in (1, 5, 30):  # at the last one the epoch is another
        start = [readers[stop]] * world_size  # a rank looks at its own only
        continued = take(stream, 5, num_workers, start=start, **settings)
        assert keys(continued) == keys(uninterrupted[stop : stop + 5])
    assert uninterrupted[30][0]["epoch"] > 1


@pytest.mark.parametrize("shuffle_buffer_size", [1, 5, 1000])
@pytest.mark.parametrize("row_group_size", [None, 3])
def test_stream_resumes_at_every_batch(tmp_path, shuffle_buffer_size, row_group_size):
    stream = shards(tmp_path, [7, 0, 5, 2], row_group_size)
    settings = {"shuffle_buffer_size": shuffle_buffer_size, "num_readers": 3, "world_size": 2}
    uninterrupted, readers = run(stream, 18, **settings)
    for stop in range(16):
        assert keys(take(stream, 2, start=[readers[stop]] * 2, **settings)) == keys(uninterrupted[stop : stop + 2])


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_stream_resume_with_another_number_of_workers(stream, num_workers):
    uninterrupted, readers = run(stream, 22, num_readers=4, num_workers=4)
    start = [readers[13]]
    assert keys(take(stream, 9, num_workers, start=start, num_readers=1)) == keys(uninterrupted[13:])


@pytest.mark.parametrize(
    ("before", "num_readers", "after"), [(1, 2, 2), (2, 1, 1), (2, 2, 4), (4, 1, 3), (1, 5, 2), (2, 2, 3)]
)
@pytest.mark.parametrize("stop", [pytest.param(1, marks=SLOW), 16])
def test_stream_resume_with_another_number_of_ranks(tmp_path, caplog, before, num_readers, after, stop):
    stream = shards(tmp_path, SIZES, 3)
    first = [run(stream, stop, rank=rank, world_size=before, num_readers=num_readers) for rank in range(before)]
    batches = list(itertools.chain(*(batches for batches, _ in first)))
    start = [readers[-1] for _, readers in first]
    for rank in range(after):
        batches += take(stream, 50, rank=rank, world_size=after, start=start)
    epochs = by_epoch(batches, number)
    everything = list(range(sum(SIZES)))
    assert {epoch: sorted(epochs[epoch]) for epoch in range(2)} == {0: everything, 1: everything}
    assert not [record for record in caplog.records if record.levelname != "INFO"]


def test_too_few_readers_for_the_ranks_begin_a_new_epoch(tmp_path, caplog):
    stream = shards(tmp_path, SIZES, 3)
    first = [run(stream, 20, rank=rank, world_size=2) for rank in range(2)]
    reached = max(row["epoch"] for batches, _ in first for row in batches[-1])
    start = [readers[-1] for _, readers in first]
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        batches = list(
            itertools.chain(*(take(stream, 20, rank=r, world_size=4, num_readers=2, start=start) for r in range(4)))
        )
    epochs = by_epoch(batches, number)
    assert min(epochs) == reached + 1
    assert sorted(epochs[reached + 1]) == list(range(sum(SIZES)))
    assert "2 processes with 2 readers in all, too few for 4" in caplog.text
    assert f"training continues with epoch {reached + 1}" in caplog.text


def test_workers_do_not_change_each_others_epoch(tmp_path):
    epochs = by_epoch(take(shards(tmp_path, [2] * 4), 120, 2, num_readers=2), number)
    assert [epoch for epoch in range(55) if sorted(epochs[epoch]) != list(range(8))] == []


def test_a_stream_without_rows_is_an_error(tmp_path):
    with pytest.raises(DataError, match="has no rows"):
        next(iter(EndlessRows(shards(tmp_path, [0, 0]), BATCH, seed=0)))


@pytest.mark.parametrize("streams", [False, True])
def test_pickles(stream, streams):
    # macOS spawns workers, so that the rows travel as a pickle.
    start = run(stream if streams else ROWS, 2)[1][-1]
    rows = EndlessRows(stream if streams else ROWS, BATCH, seed=0, start=[start])
    arrived = pickle.loads(pickle.dumps(rows))
    assert list(itertools.islice(arrived, 40)) == list(itertools.islice(rows, 40))


def test_global_random_state_stays(stream):
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    next(iter(EndlessRows(stream, BATCH, seed=0))), next(iter(EndlessRows(ROWS, BATCH, seed=0)))
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])


class Groups(torch.utils.data.IterableDataset):
    """Tells from a worker which process group it is in."""

    def __iter__(self):
        yield os.getpid(), os.getpgid(0)


def test_workers_stand_apart_from_the_signals_of_the_run():
    (row,) = DataLoader(Groups(), 1, num_workers=1, worker_init_fn=prepare_worker, collate_fn=list)
    ((worker, group),) = row
    assert worker == group != os.getpgid(0)


def fail_in_a_worker(told: Path) -> None:
    prepare_worker(0)
    with told.with_suffix(".part").open("w") as sys.stderr:
        try:
            raise EOFError("the run is gone")
        except EOFError:
            sys.excepthook(*sys.exc_info())
    told.with_suffix(".part").rename(told)


def run_with_a_worker(told: Path, is_killed: bool) -> None:
    worker = get_context("fork").Process(target=fail_in_a_worker, args=(told,))
    worker.start()
    if is_killed:
        os.kill(os.getpid(), signal.SIGKILL)
    worker.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("is_killed", "moment"), [(True, 10.0), (False, 0.1)])
def test_a_worker_is_silent_once_its_run_was_killed(is_killed, moment, tmp_path, monkeypatch):
    monkeypatch.setattr("lejepa_hf.data.streaming._LAST_MOMENT", moment)
    told = tmp_path / "told.txt"
    run = get_context("fork").Process(target=run_with_a_worker, args=(told, is_killed))
    run.start()
    run.join()
    end = time.monotonic() + 20
    while not told.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert ("the run is gone" in told.read_text()) is not is_killed
