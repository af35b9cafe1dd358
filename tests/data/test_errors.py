import gc
import logging
import pickle

import pytest
from torch.utils.data import DataLoader

from lejepa_hf.data.errors import BrokenImages, DataError, StreamInterrupted, TooManyBrokenImages, described


@pytest.mark.parametrize("kind", [DataError, StreamInterrupted, TooManyBrokenImages])
def test_the_last_line_of_a_workers_traceback_is_the_message(kind):
    traceback = f"Caught {kind.__name__} in worker 0.\nTraceback (most recent call last):\n  ...\n"
    error = kind(f"{traceback}lejepa_hf.data.errors.{kind.__name__}: shard 3: lost: retry\n")
    assert str(error) == "shard 3: lost: retry"
    assert isinstance(error, DataError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_message_is_one_line():
    assert str(DataError("shard 3\n  cannot be read")) == "shard 3 cannot be read"


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "lejepa_hf")
    return caplog


def test_good_images_are_counted_in_silence(warnings):
    images = BrokenImages(0.0)
    images.count(8, [])
    images.count(4, [])
    assert (images.num_images, images.num_broken, warnings.messages) == (12, 0, [])


def test_first_twenty_are_named_then_counted(warnings):
    images = BrokenImages(1.0)
    for batch in range(5):
        images.count(8, [f"row {8 * batch + i}: OSError:\n  why" for i in range(6)])
    named = [f"row {8 * batch + i}: OSError: why" for batch in range(5) for i in range(6)][:20]
    assert [message.partition("next good one: ")[2] for message in warnings.messages[:20]] == named
    assert len(warnings.messages) == 21 and "counted only" in warnings.messages[20]
    assert (images.num_images, images.num_broken) == (40, 30)


def test_share_counts_from_a_thousand_images_on():
    images = BrokenImages(0.01)
    images.count(10, ["a"] * 10)  # one in a hundred of a thousand
    with pytest.raises(TooManyBrokenImages):
        images.count(10, ["row 7: OSError"])


def test_share_of_all_images_seen():
    images = BrokenImages(0.01)
    for _ in range(40):
        images.count(100, ["a"])  # exactly the share
    with pytest.raises(TooManyBrokenImages) as error:
        images.count(0, ["row 7: OSError: no image"])
    for part in ("41 of 4000 images", "`max_bad_fraction` 0.01", "row 7: OSError: no image", "Repair"):
        assert part in str(error.value)
    assert "\n" not in str(error.value) and isinstance(error.value, DataError)


def test_good_images_do_not_raise_behind_the_limit():
    # A run whose counts were taken from a checkpoint, with a smaller share now, stops at the next broken one.
    images = BrokenImages(0.01)
    images.num_images, images.num_broken = 2000, 100
    images.count(8, [])
    with pytest.raises(TooManyBrokenImages):
        images.count(8, ["row 1: OSError"])


def test_no_broken_image_allowed():
    images = BrokenImages(0.0)
    images.count(10**6, [])
    with pytest.raises(TooManyBrokenImages, match="1 of 1000001 images"):
        images.count(1, ["row 1: OSError"])


def test_all_allowed():
    images = BrokenImages(1.0)
    for _ in range(300):
        images.count(8, ["row 1: OSError"] * 8)
    assert images.num_broken == images.num_images == 2400


class Failing:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise TooManyBrokenImages("51 of 5016 images are broken: more: colons.")


def test_error_of_a_worker_arrives_with_its_one_line():
    batches = iter(DataLoader(Failing(), num_workers=1))
    with pytest.raises(DataError) as error:
        next(batches)
    assert type(error.value) is TooManyBrokenImages
    assert str(error.value) == "51 of 5016 images are broken: more: colons."
    del error  # it holds the loader in a cycle, and collected as a part of one that waits 5 s for its worker
    gc.collect()


@pytest.mark.parametrize(
    ("value", "place", "expected"),
    [
        ({"bytes": b"", "path": "a/b.png"}, "row 3", "a/b.png (row 3): OSError: cut off"),
        ("a/b.png", "", "a/b.png: OSError: cut off"),
        ({"bytes": b"", "path": None}, "row 3", "row 3: OSError: cut off"),
        (b"", "", "OSError: cut off"),
    ],
)
def test_broken_images_are_named_by_their_path(value, place, expected):
    assert described(OSError("cut\n off"), value, place) == expected
