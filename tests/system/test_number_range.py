from math import inf, nan

import numpy as np
import pytest

from lejepa_hf.system.number_range import NumberRange, whole

SHARE = NumberRange(0, 1, without=(1,), way_out="0 for none")
RATE = NumberRange(0, without=(0, inf))


@pytest.mark.parametrize(
    ("accepted", "value"),
    [
        (whole(1), 1), (whole(1), 3.0), (whole(1), 2**31 - 1), (whole(0), np.int64(0)), (whole(1, others=(-1,)), -1),
        (whole(1, others=(None,)), None), (SHARE, 0), (SHARE, 0.999), (RATE, 1e-300), (RATE, np.float32(0.5)),
        (NumberRange(0, without=()), inf),
    ],
)  # fmt: skip
def test_accepted(accepted, value):
    accepted.check("setting", value)


@pytest.mark.parametrize(
    ("accepted", "value", "message"),
    [
        (whole(1), 0, "`setting` must be at least 1, got 0."),
        (whole(1), nan, "`setting` must be a whole number, got nan."),
        (whole(1), inf, "`setting` must be a whole number, got inf."),
        (whole(1), 2.5, "`setting` must be a whole number, got 2.5."),
        (whole(1), None, "`setting` must be a whole number, got None."),
        (whole(1), 2**64, "`setting` must be at most 2147483647, got 18446744073709551616."),
        (whole(1, way_out="choose another"), -2, "`setting` must be at least 1, got -2: choose another."),
        (SHARE, 1, "`setting` must be in [0, 1), got 1: 0 for none."),
        (SHARE, -0.1, "`setting` must be in [0, 1), got -0.1: 0 for none."),
        (RATE, 0, "`setting` must be above 0, got 0."),
        (RATE, inf, "`setting` must be finite, got inf."),
        (RATE, nan, "`setting` must be a number, got nan."),
        (RATE, "1e-3", "`setting` must be a number, got '1e-3'."),
    ],
)
def test_refused_with_field_value_and_way_out(accepted, value, message):
    with pytest.raises(ValueError) as error:
        accepted.check("setting", value)
    assert str(error.value) == message
