import json

import pytest

from lejepa_hf.data.reader_state import advance, read_positions, write_position


def lane(number: int, batches: int = 0) -> dict:
    return {"lane": number, "batches": batches, "passes": [[0, 4 * batches], [2, 1]]}


def test_advance_puts_the_lane_that_was_read_last():
    lanes = [lane(0), lane(2), lane(4)]
    assert advance(lanes, lane(0, 1)) == [lane(2), lane(4), lane(0, 1)]
    assert advance(advance(lanes, lane(0, 1)), lane(2, 1)) == [lane(4), lane(0, 1), lane(2, 1)]
    assert lanes == [lane(0), lane(2), lane(4)]
    assert advance([lane(0)], lane(0, 1)) == [lane(0, 1)]


@pytest.mark.parametrize("world_size", [1, 2, 11])  # rank 10 comes behind rank 9, not behind rank 1
def test_positions_come_back_by_rank(tmp_path, world_size):
    for rank in reversed(range(world_size)):
        write_position(tmp_path, rank, [lane(rank, 3), lane(rank + world_size, 2)], 100 + rank, rank)
    assert read_positions(tmp_path) == [
        {"lanes": [lane(rank, 3), lane(rank + world_size, 2)], "num_images": 100 + rank, "num_broken": rank}
        for rank in range(world_size)
    ]
    assert len(list(tmp_path.iterdir())) == world_size


def test_a_position_is_a_line_of_json(tmp_path):
    write_position(tmp_path, 0, [lane(0)], 8, 1)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {"lanes": [lane(0)], "num_images": 8, "num_broken": 1}


def test_a_position_is_written_over(tmp_path):
    write_position(tmp_path, 0, [lane(0, 10**9)], 8, 1)
    write_position(str(tmp_path), 0, [lane(0)], 4, 0)
    assert read_positions(str(tmp_path)) == [{"lanes": [lane(0)], "num_images": 4, "num_broken": 0}]


@pytest.mark.parametrize(("there", "missing"), [([], 0), ([1], 0), ([0, 2], 1)])
def test_a_missing_rank(tmp_path, there, missing):
    for rank in there:
        write_position(tmp_path, rank, [lane(rank)], 0, 0)
    with pytest.raises(ValueError, match=f"`resume` '.*{tmp_path.name}'.*_{missing}.json is missing. Resume from an"):
        read_positions(tmp_path)
