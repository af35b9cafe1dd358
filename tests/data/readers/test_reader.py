import numpy as np
import pytest

from lejepa_hf.data.readers.reader import Cut, Values


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pages": "slices"}, "`pages` must be 'channels' or 'images'"),
        ({"slice_axis": 3}, "`slice_axis` must be 0, 1 or 2"),
        ({"window_size": 0}, "`window_size` must be a number of pixels, at least 1, got 0"),
        ({"window_size": 64, "pages": "images"}, "`window_size` 64 cuts whole files"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Cut(**settings)


def test_settings_that_are_given():
    assert Cut().given == {} and Cut(slice_axis=0).given == {"slice_axis": 0}
    assert Cut("images").given == {"pages": "images"}


def test_the_range_of_the_user_wins():
    values = Values(np.array([[0.0, 50.0, 100.0]], np.float32), [0.0, 100.0])
    assert values.to_eight_bit(1, None).tolist() == [[0, 128, 255]]
    assert values.to_eight_bit(1, [50.0, 100.0]).tolist() == [[0, 0, 255]]


def test_missing_values_are_black_also_where_low_is_white():
    missing = np.array([[True, False, False]])
    values = Values(np.array([[0, 0, 255]], np.uint8), missing=missing, is_inverted=True)
    assert values.to_eight_bit(1, None).tolist() == [[0, 255, 0]]


def test_a_curve_is_left_out_with_a_range():
    values = Values(np.array([[0, 1000]], np.int16), shown=np.array([[0.0, 0.5]]))
    assert values.to_eight_bit(1, None).tolist() == [[0, 128]]
    assert values.to_eight_bit(1, [0.0, 1000.0]).tolist() == [[0, 255]]
