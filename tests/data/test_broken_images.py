import logging

import pytest
from torch.utils.data import DataLoader

from lejepa_hf.data.broken_images import BrokenImages
from lejepa_hf.data.errors import DataError, TooManyBrokenImages


def test_first_ones_are_named_then_counted(caplog):
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        broken = BrokenImages(0.5)
        for number in range(30):
            broken.count(100, [f"row {number}: no image"])
    assert (broken.num_images, broken.num_broken) == (3000, 30)
    named = [record.message for record in caplog.records if "no image" in record.message]
    assert len(named) == 20 and named[19].endswith("row 19: no image")
    assert caplog.text.count("counted only") == 1


@pytest.mark.parametrize(("fraction", "allowed"), [(0.01, 10), (0.002, 2), (0.0, 0)])
def test_limit_is_of_at_least_a_thousand_images(fraction, allowed):
    broken = BrokenImages(fraction)
    for _ in range(allowed):
        broken.count(8, ["row 1: no image"])
    with pytest.raises(TooManyBrokenImages, match=rf"{allowed + 1} of .*`max_bad_fraction` {fraction} .*row 7: torn"):
        broken.count(8, ["row 7: torn"])


def test_limit_grows_with_the_images():
    broken = BrokenImages(0.01)
    broken.count(5000, [])
    broken.count(8, ["row"] * 50)
    with pytest.raises(TooManyBrokenImages):
        broken.count(8, ["row"])


class Failing:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise TooManyBrokenImages("51 of 5016 images are broken: more: colons.")


def test_error_of_a_worker_arrives_with_its_one_line():
    with pytest.raises(DataError) as error:
        next(iter(DataLoader(Failing(), num_workers=1)))
    assert type(error.value) is TooManyBrokenImages
    assert str(error.value) == "51 of 5016 images are broken: more: colons."
