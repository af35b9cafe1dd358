import itertools
from collections import Counter

import datasets
import pytest
from kept_positions import written_and_read
from parquet_shards import number, shards
from torch.utils.data import DataLoader

from lejepa_hf.data.dataset_kinds import Mixture
from lejepa_hf.data.reader_state import advance
from lejepa_hf.data.streaming import EndlessRows

BATCH = 4


@pytest.fixture(params=["map-style", "streams"])
def mixture(request, tmp_path):
    """Rows 0 to 29 in a large member, 100 to 109 in a small one; of four draws three are of the large one."""
    large, small = shards(tmp_path / "large", [9, 14, 7]), shards(tmp_path / "small", [4, 6], 2)
    small = small.map(renumbered, features=small.features)
    if request.param == "streams":
        return Mixture([large, small], [3, 1])
    return Mixture([datasets.Dataset.from_list(list(member), large.features) for member in (large, small)], [3, 1])


def renumbered(row: dict) -> dict:
    return {"image": {"bytes": b"image %d" % (100 + number(row)), "path": None}}


def run(dataset, num_batches: int, num_workers: int = 0, **settings) -> tuple[list[list[dict]], list[dict]]:
    """Batches of the Trainer's loader and where the rank stands behind them, as a checkpoint keeps it."""
    rows = EndlessRows(dataset, BATCH, **{"seed": 0, "shuffle_buffer_size": 5, "num_readers": 2, **settings})
    loader = DataLoader(rows, BATCH, num_workers=num_workers, collate_fn=list)
    batches, readers = list(itertools.islice(loader, num_batches)), rows.readers
    for batch in batches:
        readers = advance(readers, batch[-1]["position"])
    return batches, written_and_read(readers)


def keys(batches: list[list[dict]]) -> list[tuple[int, int]]:
    return [(row["epoch"], number(row)) for row in itertools.chain(*batches)]


def assert_each_once_an_epoch(rows: list[tuple[int, int]]):
    assert set(Counter(rows).values()) == {1}
    for first, size in ((0, 30), (100, 10)):
        epochs = Counter(epoch for epoch, row in rows if first <= row < first + size)
        # Readers draw by themselves, and one that is alone on its rank is due more often than two that share one.
        over = max(epochs) // 3
        assert over >= 2 and [epochs[epoch] for epoch in range(over)] == [size] * over


@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [(1, 0), pytest.param(1, 2, marks=pytest.mark.slow), (2, 1), pytest.param(4, 0, marks=pytest.mark.slow)],
)
def test_shares_follow_the_weights_and_members_have_epochs_of_their_own(mixture, world_size, num_workers):
    settings = {"num_workers": num_workers, "world_size": world_size}
    rows = list(
        itertools.chain(*(keys(run(mixture, 320 // world_size, rank=r, **settings)[0]) for r in range(world_size)))
    )
    # 1280 draws: 3.3 standard deviations
    assert sum(row < 100 for _, row in rows) / len(rows) == pytest.approx(0.75, abs=0.04)
    assert_each_once_an_epoch(rows)


def test_members_alternate_within_a_batch(mixture):
    shares = Counter(sum(number(row) < 100 for row in batch) for batch in run(mixture, 200)[0])
    assert set(shares) >= {1, 2, 3, 4} and shares[3] > 50  # binomial: 84 of 200


def test_reproducible(mixture):
    assert keys(run(mixture, 20)[0]) == keys(run(mixture, 20)[0])
    assert keys(run(mixture, 20, seed=1)[0]) != keys(run(mixture, 20)[0])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_leave_the_order(mixture, num_workers):
    assert keys(run(mixture, 20, num_workers)[0]) == keys(run(mixture, 20)[0])


@pytest.mark.parametrize("stop", [1, pytest.param(7, marks=pytest.mark.slow), 40])
@pytest.mark.parametrize("world_size", [1, 2])
def test_resume_continues_the_run(mixture, stop, world_size):
    settings = {"rank": world_size - 1, "world_size": world_size}
    uninterrupted, _ = run(mixture, stop + 6, **settings)
    start = [run(mixture, stop, **settings)[1]] * world_size
    for num_workers in (0, 2):
        assert keys(run(mixture, 6, num_workers, start=start, **settings)[0]) == keys(uninterrupted[stop:])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3)])
def test_resume_with_another_number_of_ranks(mixture, before, after):
    first = [run(mixture, 15, rank=rank, world_size=before) for rank in range(before)]
    start = [readers for _, readers in first]
    rows = list(itertools.chain(*(keys(batches) for batches, _ in first)))
    for rank in range(after):
        rows += keys(run(mixture, 240 // after, rank=rank, world_size=after, start=start)[0])
    assert_each_once_an_epoch(rows)


def test_rows_say_where_they_stand(mixture):
    for row in itertools.chain(*run(mixture, 20)[0]):
        assert row["where"].endswith(f" of mixed dataset {int(number(row) >= 100)}")


def test_members_are_shuffled_each_by_itself(mixture):
    # Two members with the same rows do not go through them in the same order.
    twice = Mixture([mixture.datasets[0]] * 2, [1, 1])
    orders = [[], []]
    for row in itertools.chain(*run(twice, 60)[0]):
        if row["epoch"] == 0:
            orders[int(row["where"][-1])].append(number(row))
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(30))


def test_weights_are_shares():
    assert Mixture([[1], [2]], [3, 1]).weights == [0.75, 0.25]


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1], "each of the 2 datasets, got .1."), ([1, 0], "must be positive.*, got .1, 0."), ([1, -2], "positive")],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=f"`weights` .*{message}"):
        Mixture([[1], [2]], weights)


def test_no_datasets():
    with pytest.raises(ValueError, match="`weights`"):
        Mixture([], [])
