import itertools
import json
import pickle
import zlib
from collections import Counter, defaultdict

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lejepa_hf.data.lanes import Lane
from lejepa_hf.data.mixture import Mixture
from lejepa_hf.data.positions import advance
from lejepa_hf.data.streaming import EndlessRows, count_rows

BATCH = 4


def take(dataset, num_batches: int, num_workers: int = 0, **settings) -> list[list[dict]]:
    """Batches as the Trainer's loader gives them."""
    settings = {"seed": 0, "num_lanes": max(1, num_workers), "shuffle_buffer_size": 9, **settings}
    rows = EndlessRows(dataset, batch_size=BATCH, **settings)
    loader = DataLoader(rows, batch_size=BATCH, num_workers=rows.num_workers(num_workers), collate_fn=list)
    return list(itertools.islice(loader, num_batches))


def lanes_behind(dataset, batches: list[list[dict]], **settings) -> list[dict]:
    """Where a rank stands behind these batches, as a checkpoint keeps it."""
    lanes = EndlessRows(dataset, BATCH, **{"seed": 0, **settings}).lanes
    for batch in batches:
        assert all("position" not in row for row in batch[:-1])
        lanes = advance(lanes, batch[-1]["position"])
    return json.loads(json.dumps(lanes))


def keys(batches: list[list[dict]]) -> list[list[tuple]]:
    return [[(row["epoch"], row["index"]) for row in batch] for batch in batches]


def by_epoch(batches) -> dict[int, list[int]]:
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
@pytest.mark.parametrize("consumed", [1, 5, 16])
@pytest.mark.parametrize("world_size", [1, 2])
def test_resume_continues_the_run(consumed, num_workers, world_size):
    settings = {"rank": world_size - 1, "world_size": world_size}
    uninterrupted = take(ROWS, consumed + 4, **settings)
    start = [lanes_behind(ROWS, uninterrupted[:consumed])] * world_size
    assert keys(take(ROWS, 4, num_workers, start=start, **settings)) == keys(uninterrupted)[consumed:]


def test_resume_with_other_ranks_leaves_nothing_out():
    before = [take(ROWS, 3, rank=rank, world_size=2) for rank in range(2)]
    start = [lanes_behind(ROWS, batches) for batches in before]
    after = [take(ROWS, 5, rank=rank, world_size=3, start=start) for rank in range(3)]
    epochs = by_epoch(itertools.chain(*before, *after))
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30))


def test_map_style_takes_any_number_of_workers():
    assert EndlessRows(ROWS, BATCH, seed=0).num_workers(7) == 7


def test_count_rows():
    assert count_rows(ROWS) == 30
    dataset = datasets.Dataset.from_list(ROWS)
    assert count_rows(dataset) == 30
    assert count_rows(dataset.to_iterable_dataset()) in (30, None)
    assert count_rows(Mixture([ROWS, ROWS[:5]], [1, 1])) == 35


# Streams


def content(i: int) -> bytes:
    return f"image {i}".encode()  # no image at all: whatever decodes here fails


def shards(folder, sizes, rows_a_group: int = 1000):
    """A stream of real Parquet files with undecoded images, counted through."""
    numbers = itertools.count()
    features = datasets.Features({"image": datasets.Image(decode=False)})
    for shard, size in enumerate(sizes):
        image = [{"bytes": content(next(numbers)), "path": None} for _ in range(size)]
        whole = datasets.Dataset.from_dict({"image": image}, features=features)
        whole.to_parquet(folder / f"{shard:02d}.parquet", batch_size=rows_a_group)
    files = {"train": str(folder / "*.parquet")}
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=folder)
    return stream.cast_column("image", datasets.Image(decode=False))


def hashes(number: int) -> list[int]:
    return sorted(zlib.crc32(content(i)) for i in range(number))


@pytest.fixture
def stream(tmp_path):
    return shards(tmp_path, [6] * 4)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("sizes", "rows_a_group"),
    [([6] * 4, 100), ([24], 100), ([24], 3), ([3, 7, 0, 6, 2, 6], 100), ([1, 2] * 8, 100)],
    ids=["even", "one shard", "one shard of row groups", "uneven", "many"],
)
def test_stream_gives_every_row_once_an_epoch(tmp_path, sizes, rows_a_group, world_size, num_workers):
    stream = shards(tmp_path, sizes, rows_a_group)
    num_batches = 60 // world_size  # ten epochs; lanes differ by a unit at most, so six are surely over
    ranks = [take(stream, num_batches, num_workers, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {num_batches}  # nothing ends, nothing hangs
    epochs = by_epoch(itertools.chain(*ranks))
    assert all(sorted(epochs[epoch]) == hashes(24) for epoch in range(6))
    assert all(len(set(indices)) == len(indices) for indices in epochs.values())
    assert all(first != second for first, second in itertools.combinations(list(epochs.values())[:6], 2))


def opened_shards(stream, num_lanes: int, epochs: int = 1) -> list[list[tuple[int, int]]]:
    """(epoch, shard) of everything that each lane reads in these epochs."""
    opened = []
    for number in range(num_lanes):
        lane = Lane(stream, number, num_lanes, [0, 0], buffer_size=5)
        opened.append([(epoch, unit // lane.parts) for epoch in range(epochs) for unit in lane.units(epoch)])
    return opened


def test_where_shards_suffice_each_is_read_by_one_lane(stream):
    opened = Counter(itertools.chain(*opened_shards(stream, 2, epochs=3)))
    assert opened == dict.fromkeys(itertools.product(range(3), range(4)), 1)


def test_where_they_do_not_a_shard_is_read_by_no_more_lanes_than_needed(tmp_path):
    stream = shards(tmp_path, [6] * 3)
    opened = Counter(itertools.chain(*opened_shards(stream, 8)))
    assert opened == dict.fromkeys([(0, 0), (0, 1), (0, 2)], 3)


def test_lanes_stay_together(tmp_path):
    stream = shards(tmp_path, [1] * 7)
    lanes = [Lane(stream, number, 4, [0, 0], buffer_size=5) for number in range(4)]
    read = np.cumsum([[len(lane.units(epoch)) for lane in lanes] for epoch in range(50)], axis=0)
    assert (read.max(axis=1) - read.min(axis=1)).max() == 1


def test_index_of_a_streamed_row_is_a_hash_of_its_bytes(stream):
    for row in itertools.chain(*take(stream, 6)):
        assert row["index"] == zlib.crc32(row["image"]["bytes"])


def test_index_of_a_path_is_a_hash_of_it():
    paths = datasets.Dataset.from_list([{"image": {"bytes": None, "path": f"{i}.png"}} for i in range(8)])
    for row in itertools.chain(*take(paths.to_iterable_dataset(num_shards=2), 4)):
        assert row["index"] == zlib.crc32(row["image"]["path"].encode())


def test_rows_say_where_they_stand(tmp_path, stream):
    for row in itertools.chain(*take(stream, 6)):
        number = int(row["image"]["bytes"].split()[1])
        assert row["where"] == f"row {number % 6} of shard {number // 6} of 4"
    assert [row["where"] for row in take(ROWS, 1)[0]] == [f"row {row['index']}" for row in take(ROWS, 1)[0]]


def test_stream_order_follows_from_the_seed(stream):
    assert keys(take(stream, 12)) == keys(take(stream, 12))
    assert keys(take(stream, 12, seed=1)) != keys(take(stream, 12))


def test_order_depends_on_lanes_not_on_workers(stream):
    orders = [keys(take(stream, 18, num_workers, num_lanes=4)) for num_workers in (0, 1, 2, 4)]
    assert orders[0] == orders[1] == orders[2] == orders[3]


def test_only_divisors_of_the_lanes_keep_the_order(stream):
    rows = EndlessRows(stream, BATCH, seed=0, num_lanes=6)
    assert [rows.num_workers(wanted) for wanted in (0, 1, 2, 3, 4, 5, 6, 7)] == [0, 1, 2, 3, 3, 3, 6, 6]


def test_shuffle_buffer_and_open_shards_mix(tmp_path):
    stream = shards(tmp_path, [50] * 8)

    def mean_distance(**settings) -> float:
        rows = itertools.chain(*take(stream, 100, **settings))
        names = [int(row["image"]["bytes"].split()[1]) for row in rows]
        assert sorted(names) == list(range(400))
        return np.abs(np.diff(names)).mean()

    # 133 would be perfect; shards one after the other, unshuffled, give little more than 1
    assert mean_distance(shuffle_buffer_size=1) > 50
    assert mean_distance(shuffle_buffer_size=200) > 110


@pytest.mark.parametrize("workers_after", [0, 1, 2])
@pytest.mark.parametrize("consumed", [1, 6, 11, 26])  # in the first pass, at its end, wrapped around, later
@pytest.mark.parametrize(("world_size", "num_lanes"), [(1, 1), (1, 2), (2, 2), (2, 4)])
def test_stream_resume_continues_the_run(stream, consumed, workers_after, world_size, num_lanes):
    settings = {"world_size": world_size, "num_lanes": num_lanes}
    uninterrupted = [take(stream, consumed + 5, rank=rank, **settings) for rank in range(world_size)]
    start = [
        lanes_behind(stream, batches[:consumed], rank=rank, **settings) for rank, batches in enumerate(uninterrupted)
    ]
    rank = world_size - 1
    resumed = take(stream, 5, workers_after, rank=rank, world_size=world_size, num_lanes=1, start=start)
    assert keys(resumed) == keys(uninterrupted[rank])[consumed:]


@pytest.mark.parametrize("buffer_size", [1, 7, 500])
def test_resume_with_any_shuffle_buffer(stream, buffer_size):
    uninterrupted = take(stream, 12, shuffle_buffer_size=buffer_size)
    start = [lanes_behind(stream, uninterrupted[:8])]
    assert keys(take(stream, 4, start=start, shuffle_buffer_size=buffer_size)) == keys(uninterrupted)[8:]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (4, 3)])
def test_stream_resume_with_other_ranks_leaves_nothing_out(tmp_path, before, after):
    stream = shards(tmp_path, [6] * 8)
    seen = [take(stream, 2, rank=rank, world_size=before, num_lanes=2) for rank in range(before)]
    start = [
        lanes_behind(stream, batches, rank=rank, world_size=before, num_lanes=2) for rank, batches in enumerate(seen)
    ]
    later = [take(stream, 48 // after, rank=rank, world_size=after, start=start) for rank in range(after)]
    epochs = by_epoch(itertools.chain(*seen, *later))
    assert sorted(epochs[0]) == sorted(epochs[1]) == hashes(48)
    assert all(len(set(indices)) == len(indices) for indices in epochs.values())


def test_too_few_lanes_for_more_ranks_begin_a_new_epoch(stream, caplog):
    start = [lanes_behind(stream, take(stream, 8))]
    later = [take(stream, 12, rank=rank, world_size=3, start=start) for rank in range(3)]
    assert "too few for 3" in caplog.text and "epoch 2" in caplog.text
    epochs = by_epoch(itertools.chain(*later))
    assert min(epochs) == 2 and sorted(epochs[2]) == hashes(24)


def test_workers_do_not_change_each_others_epoch(tmp_path):
    stream = shards(tmp_path, [2] * 4)
    epochs = by_epoch(take(stream, 120, 2))
    assert [epoch for epoch in range(55) if sorted(epochs[epoch]) != hashes(8)] == []


def test_a_stream_without_rows_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="has no rows"):
        next(iter(EndlessRows(shards(tmp_path, [0, 0]), BATCH, seed=0)))


# Mixtures


@pytest.fixture(params=["map-style", "streams"])
def mixture(request, tmp_path):
    members = [datasets.Dataset.from_list([{"image": {"bytes": content(i), "path": None}} for i in range(start, end)])
               for start, end in ((0, 30), (100, 110))]  # fmt: skip
    if request.param == "streams":
        members = [member.to_iterable_dataset(num_shards=3) for member in members]
    return Mixture(members, [3, 1])


def numbers(batches) -> list[tuple[int, int]]:
    return [(row["epoch"], int(row["image"]["bytes"].split()[1])) for row in itertools.chain(*batches)]


@pytest.mark.parametrize("world_size", [1, 2])
def test_members_are_drawn_by_weight_and_each_row_once_an_epoch_of_its_member(mixture, world_size):
    ranks = [take(mixture, 300 // world_size, 2, rank=rank, world_size=world_size) for rank in range(world_size)]
    drawn = Counter(numbers(itertools.chain(*ranks)))
    assert set(drawn.values()) == {1}
    large, small = ([epoch for epoch, number in drawn if (number < 100) == is_large] for is_large in (True, False))
    assert len(large) / 1200 == pytest.approx(0.75, abs=0.04)
    for epochs, size in ((large, 30), (small, 10)):
        # Lanes draw by themselves, so that of a small member some are an epoch or two ahead.
        assert all(epochs.count(epoch) == size for epoch in range(max(epochs) // 2))


@pytest.mark.parametrize("consumed", [1, 7, 40])
def test_resume_of_a_mixture(mixture, consumed):
    uninterrupted = take(mixture, consumed + 6, 2)
    start = [lanes_behind(mixture, uninterrupted[:consumed], num_lanes=2)]
    for num_workers in (0, 2):
        assert numbers(take(mixture, 6, num_workers, start=start)) == numbers(uninterrupted[consumed:])


@pytest.mark.parametrize(("weights", "message"), [([1], "2 datasets"), ([1, 0], "positive"), ([1, -2], "positive")])
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture([ROWS, ROWS], weights)


# Both


@pytest.mark.parametrize("streams", [False, True])
def test_pickles(stream, streams):
    # macOS spawns workers, so that the rows travel as a pickle.
    rows = EndlessRows(stream if streams else ROWS, BATCH, seed=0, num_lanes=2)
    arrived = pickle.loads(pickle.dumps(rows))
    assert list(itertools.islice(arrived, 40)) == list(itertools.islice(rows, 40))


def test_global_random_state_stays(stream):
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    next(iter(EndlessRows(stream, BATCH, seed=0))), next(iter(EndlessRows(ROWS, BATCH, seed=0)))
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
