import pytest

from lejepa_hf.data.pixel_ranges import check_ranges, is_range_of_bytes, range_of_channels, ranges_of

PAIRS = [[0.0, 100.0], [10.0, 255.0], [-5.0, 4000.0]]


def test_pairs():
    assert (ranges_of(None), ranges_of([0.0, 9.0]), ranges_of(PAIRS)) == ([], [[0.0, 9.0]], PAIRS)


def test_some_channels():
    assert range_of_channels([0.0, 9.0], 1, 1) == [0.0, 9.0] and range_of_channels(None, 0, 3) is None
    assert range_of_channels(PAIRS, 1, 1) == PAIRS[1] and range_of_channels(PAIRS, 1, 2) == PAIRS[1:]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, False),
        ([0.0, 255.0], False),
        ([0.0, 200.0], True),
        ([0.0, 1.0], False),
        (PAIRS, False),
        (PAIRS[:2], True),
    ],
)
def test_ranges_of_bytes(given, expected):
    assert is_range_of_bytes(given) == expected


def test_other_numbers_of_channels_are_refused():
    check_ranges([0.0, 9.0], 5)
    check_ranges(PAIRS, 3)
    with pytest.raises(
        ValueError, match="`pixel_range` has 3 pairs, one for each channel, but the image has 4 channels"
    ):
        check_ranges(PAIRS, 4)
