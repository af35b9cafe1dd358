import json

import pytest

from lejepa_hf.data.reader_state import (
    Progress,
    RankState,
    ReaderPosition,
    advance,
    deal_readers,
    read_positions,
    write_position,
)


def reader(number: int, batches: int = 0) -> ReaderPosition:
    return ReaderPosition(number, batches, [Progress(0, 4 * batches), Progress(2, 1)])


def test_advance_puts_the_reader_that_was_read_last():
    readers = [reader(0), reader(2), reader(4)]
    assert advance(readers, reader(0, 1)) == [reader(2), reader(4), reader(0, 1)]
    assert advance(advance(readers, reader(0, 1)), reader(2, 1)) == [reader(4), reader(0, 1), reader(2, 1)]
    assert readers == [reader(0), reader(2), reader(4)]
    assert advance([reader(0)], reader(0, 1)) == [reader(0, 1)]


def test_a_new_run_deals_readers_like_cards():
    assert deal_readers(None, 1, 2, 3, 1) == ([ReaderPosition(n, 0, [Progress(0, 0)]) for n in (1, 3, 5)], 6)


def test_the_same_ranks_take_up_their_own_readers():
    start = [[reader(2, 1), reader(0, 2)], [reader(1, 1), reader(3, 1)]]
    assert deal_readers(start, 1, 2, 5, 2) == (start[1], 4)


def test_other_ranks_share_the_readers():
    start = [[reader(2, 1), reader(0, 2)], [reader(1, 1)]]
    assert deal_readers(start, 0, 3, 5, 2) == ([reader(0, 2)], 3)
    assert deal_readers(start, 0, 1, 5, 2) == ([reader(0, 2), reader(1, 1), reader(2, 1)], 3)


def test_too_few_readers_begin_a_new_epoch(caplog):
    dealt = deal_readers([[reader(0, 2)]], 1, 2, 2, 2)
    assert dealt == ([ReaderPosition(n, 0, [Progress(3, 0)] * 2) for n in (1, 3)], 4)
    assert "training continues with epoch 3" in caplog.text


@pytest.mark.parametrize("world_size", [1, 2, 11])  # rank 10 comes behind rank 9, not behind rank 1
def test_positions_come_back_by_rank(tmp_path, world_size):
    for rank in reversed(range(world_size)):
        write_position(tmp_path, rank, RankState([reader(rank, 3), reader(rank + world_size, 2)], 100 + rank, rank))
    states = read_positions(tmp_path)
    assert states == [
        RankState([reader(rank, 3), reader(rank + world_size, 2)], 100 + rank, rank) for rank in range(world_size)
    ]
    assert all(isinstance(of_one, Progress) for of_one in states[0].readers[0].passes)
    assert len(list(tmp_path.iterdir())) == world_size


def test_a_position_is_a_line_of_json(tmp_path):
    write_position(tmp_path, 0, RankState([reader(0)], 8, 1))
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "readers": [{"reader": 0, "batches": 0, "passes": [[0, 0], [2, 1]]}], "num_images": 8, "num_broken": 1
    }  # fmt: skip


def test_checkpoints_of_version_0_1_0_are_read(tmp_path):
    old = '{"lanes": [{"lane": 3, "batches": 7, "passes": [[1, 12]]}], "num_images": 28, "num_broken": 2}\n'
    (tmp_path / "data_position_0.json").write_text(old, encoding="utf-8")
    assert read_positions(tmp_path) == [RankState([ReaderPosition(3, 7, [Progress(1, 12)])], 28, 2)]


def test_a_position_is_written_over(tmp_path):
    write_position(tmp_path, 0, RankState([reader(0, 10**9)], 8, 1))
    write_position(str(tmp_path), 0, RankState([reader(0)], 4, 0))
    assert read_positions(str(tmp_path)) == [RankState([reader(0)], 4, 0)]


@pytest.mark.parametrize(("there", "missing"), [([], 0), ([1], 0), ([0, 2], 1)])
def test_a_missing_rank(tmp_path, there, missing):
    for rank in there:
        write_position(tmp_path, rank, RankState([reader(rank)], 0, 0))
    with pytest.raises(ValueError, match=f"`resume` '.*{tmp_path.name}'.*_{missing}.json is missing. Resume from an"):
        read_positions(tmp_path)
