import itertools
import logging
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from parquet_shards import number, shards

from lejepa_hf.data.errors import DataError
from lejepa_hf.data.stream_readers import StreamReader

KEY = [3, 0]


def readers(stream, num_readers: int, buffer_size: int = 5, key=KEY) -> list[StreamReader]:
    return [StreamReader(stream, reader, num_readers, key, buffer_size) for reader in range(num_readers)]


def epochs_of(reader: StreamReader, num_epochs: int) -> dict[int, list[int]]:
    epochs = defaultdict(list)
    for epoch, place, row in itertools.takewhile(lambda row: row[0] < num_epochs, reader.rows()):
        epochs[epoch].append(number(row))
        assert place == len(epochs[epoch])
    return epochs


@pytest.mark.parametrize("num_shards", [1, 3, 8])
@pytest.mark.parametrize("num_readers", [1, 2, 4, 5])
def test_readers_stay_within_one_unit(tmp_path, num_shards, num_readers):
    dealt = readers(shards(tmp_path, [1] * num_shards), num_readers)
    num_units = dealt[0].parts * num_shards
    assert num_units >= num_readers
    read, orders = Counter(), set()
    for epoch in range(50):
        units = [reader.units(epoch) for reader in dealt]
        assert sorted(itertools.chain(*units)) == list(range(num_units))
        read.update({reader: len(own) for reader, own in enumerate(units)})
        assert max(read.values()) - min(read.values()) <= 1
        orders.add(str(units))
    assert len(orders) > 45 or num_units < 8  # in another order each time


def test_a_reader_meets_all_shards(tmp_path):
    reader = StreamReader(shards(tmp_path, [1] * 8), 1, 4, KEY, 5)
    assert {unit for epoch in range(50) for unit in reader.units(epoch)} == set(range(8))


@pytest.mark.parametrize("row_group_size", [None, 4])
@pytest.mark.parametrize("num_readers", [1, 2, 3, 7])
def test_no_row_in_two_readers(tmp_path, num_readers, row_group_size):
    stream = shards(tmp_path, [9, 0, 4, 6], row_group_size)
    epochs = [epochs_of(reader, 3) for reader in readers(stream.reshard(), num_readers)]
    for epoch in range(3):
        assert sorted(itertools.chain(*(reader[epoch] for reader in epochs))) == list(range(19))


def test_fewer_shards_than_readers_share_every_nth_row(tmp_path):
    dealt = readers(shards(tmp_path, [7]), 3)
    parts = [[number(row) for row in dealt[0].read(part)] for part in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert [row["where"] for row in dealt[0].read(1)] == ["row 1 of shard 0 of 1", "row 4 of shard 0 of 1"]


def test_enough_shards_are_read_whole(tmp_path):
    reader = StreamReader(shards(tmp_path, [3, 2, 4, 5]), 0, 4, KEY, 5)
    assert reader.parts == 1
    assert [[number(row) for row in reader.read(unit)] for unit in range(2)] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("buffer_size", [1, 4, 100])
def test_taking_up_at_any_row(tmp_path, buffer_size):
    stream = shards(tmp_path, [5, 0, 3, 4, 1, 2])
    reader = readers(stream, 2, buffer_size)[1]
    rows = list(itertools.islice(reader.rows(), 25))
    for i in range(20):
        epoch, taken, _ = rows[i]
        assert list(itertools.islice(reader.rows(epoch, taken), 5)) == rows[i + 1 : i + 6]
    assert rows[20][0] > 1


def test_order_follows_from_key_and_epoch(tmp_path):
    stream = shards(tmp_path, [8] * 4)
    epochs = epochs_of(readers(stream, 1)[0], 4)
    assert len({tuple(order) for order in epochs.values()}) == 4
    assert epochs_of(readers(stream, 1)[0], 4) == epochs
    assert epochs_of(readers(stream, 1, key=[4, 0])[0], 1)[0] != epochs[0]
    assert epochs_of(readers(stream, 1, key=[3, 1])[0], 1)[0] != epochs[0]


def test_shards_are_read_side_by_side(tmp_path):
    reader = readers(shards(tmp_path, [50] * 8), 1, buffer_size=1)[0]
    order = epochs_of(reader, 1)[0]
    assert len({row // 50 for row in order[:20]}) == 4
    changes = sum(first // 50 != second // 50 for first, second in itertools.pairwise(order[:100]))
    assert changes > 50


def test_buffer_shuffles(tmp_path):
    def displacement(buffer_size):
        order = epochs_of(readers(shards(tmp_path, [200]), 1, buffer_size)[0], 1)[0]
        return sum(abs(place - row) for place, row in enumerate(order)) / 200

    assert displacement(1) <= 1 < 10 < displacement(30) < displacement(200)


def test_a_buffer_of_the_whole_stream_shuffles_uniformly(tmp_path):
    places = [order.index(0) for order in epochs_of(readers(shards(tmp_path, [20]), 1, 20)[0], 400).values()]
    counts = np.bincount(places, minlength=20)
    assert ((counts - 20) ** 2 / 20).sum() < 44  # 19 degrees of freedom: once in a thousand seeds


def test_two_epochs_share_the_buffer(tmp_path):
    # Rows of the next epoch move in as those of the last one leave: no pause, no second buffer.
    stream, opened = shards(tmp_path, [30] * 2), []
    reader = readers(stream, 1, 30)[0]
    read = reader.read
    reader.read = lambda unit: (opened.append(row["where"]) or row for row in read(unit))
    ahead = [len(opened) - given for given, _ in enumerate(itertools.islice(reader.rows(), 150), 1)]
    assert min(ahead) >= 29 and max(ahead) <= 31


@pytest.mark.parametrize("sizes", [[1], [0, 0, 3], [0, 5, 0, 0]])
def test_a_reader_without_rows_in_an_epoch_goes_on(tmp_path, sizes):
    # With fewer rows than readers most epochs deal a reader empty units only, often many times in a row.
    for reader in readers(shards(tmp_path, sizes), 6):
        reached = [epoch for epoch, _, _ in itertools.islice(reader.rows(), 8)]
        assert reached == sorted(reached) and reached[-1] > 1


@pytest.mark.parametrize("num_readers", [1, 3])
def test_no_rows_at_all(tmp_path, num_readers):
    reader = StreamReader(shards(tmp_path, [0, 0]), 0, num_readers, KEY, 5, " of mixed dataset 1")
    with pytest.raises(DataError, match="^The stream of mixed dataset 1 has no rows.$"):
        next(reader.rows())


def test_a_truncated_shard_is_named(tmp_path):
    stream = shards(tmp_path, [6, 40, 6])
    path = tmp_path / "01.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="^shard 1 of 3 cannot be read on after 0 rows: ArrowInvalid: .*`dataset`.$"):
        list(readers(stream, 1)[0].rows())


def test_a_damaged_row_group_is_named(tmp_path, caplog):
    stream = shards(tmp_path, [6, 80], row_group_size=10)
    path = tmp_path / "01.parquet"
    first = pq.ParquetFile(path).metadata.row_group(5).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[first : first + 40] = bytes(40)
    path.write_bytes(content)
    read = []
    with (
        caplog.at_level(logging.WARNING, "lejepa_hf"),
        pytest.raises(DataError, match=r"^shard 1 of 2 cannot be read on after (32|0) rows: .*Replace the file"),
    ):
        read.extend(map(number, readers(stream, 1)[0].read(1)))
    # What was read before, in reads of 32; a busy machine may have read ahead to the damage by then.
    assert read in (list(range(6, 38)), [])
    assert "retry" not in caplog.text
