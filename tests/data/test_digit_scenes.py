import numpy as np
import pytest

from lejepa_hf.data.digit_scenes import load_digit_scenes_split
from lejepa_hf.data.sources import load_source


@pytest.fixture(scope="module")
def scenes():
    return load_digit_scenes_split("test")


def test_the_same_ones_always(scenes):
    again = load_digit_scenes_split("test")
    assert again.data.equals(scenes.data)
    assert len(scenes) == 250


def test_masks_lie_on_the_ink(scenes):
    seen = set()
    for row in scenes.select(range(50)):
        image, mask = np.asarray(row["image"]), np.asarray(row["mask"])
        assert image.shape == mask.shape == (32, 32)
        assert ((mask > 0) == (image >= 64)).all()
        for quarter in (mask[:16, :16], mask[:16, 16:], mask[16:, :16], mask[16:, 16:]):
            assert len(set(quarter.ravel().tolist()) - {0}) == 1  # a digit each
        seen |= set(mask.ravel().tolist())
    assert seen == set(range(11))


def test_by_name_with_columns():
    source = load_source("digit-scenes", "test", image_column="image", label_column="mask")
    assert source.num_images == 250
    row = source.dataset[0]
    assert row["image"]["bytes"].startswith(b"\x89PNG") and row["mask"]["bytes"].startswith(b"\x89PNG")
    assert source.class_names is None


def test_a_split_that_is_not_there():
    with pytest.raises(ValueError, match="'digit-scenes' has the splits train and test, got 'validation'"):
        load_digit_scenes_split("validation")
