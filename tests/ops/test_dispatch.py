import pytest

from lejepa_hf.ops import dispatch, epps_pulley_eager, epps_pulley_reference


def test_picks_by_name():
    assert dispatch.characteristic_sums("reference") is epps_pulley_reference.characteristic_sums
    assert dispatch.characteristic_sums("eager") is epps_pulley_eager.characteristic_sums
    assert dispatch.characteristic_sums() is epps_pulley_eager.characteristic_sums


def test_unknown_backend_lists_the_known():
    with pytest.raises(ValueError, match="auto, reference, eager, got 'cuda'"):
        dispatch.characteristic_sums("cuda")
