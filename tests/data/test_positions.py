import pytest

from lejepa_hf.data.positions import advance, read_positions, write_position


def lane(number: int, batches: int = 0) -> dict:
    return {"lane": number, "batches": batches, "passes": [[0, 4 * batches]]}


def test_lanes_stand_in_the_order_they_are_due():
    lanes = [lane(0), lane(2), lane(4)]
    lanes = advance(lanes, lane(0, 1))
    lanes = advance(lanes, lane(2, 1))
    assert lanes == [lane(4), lane(0, 1), lane(2, 1)]


def test_round_trip(tmp_path):
    write_position(tmp_path, 0, [lane(0, 3)], 96, 1)
    write_position(tmp_path, 1, [lane(1, 2)], 96, 0)
    assert read_positions(tmp_path) == [
        {"lanes": [lane(0, 3)], "num_images": 96, "num_broken": 1},
        {"lanes": [lane(1, 2)], "num_images": 96, "num_broken": 0},
    ]


@pytest.mark.parametrize(("written", "missing"), [([], 0), ([1], 0), ([0, 2], 1)])
def test_a_missing_rank_is_named(tmp_path, written, missing):
    for rank in written:
        write_position(tmp_path, rank, [], 0, 0)
    with pytest.raises(ValueError, match=f"data_position_{missing}.json is missing"):
        read_positions(tmp_path)
