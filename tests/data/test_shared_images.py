import datasets
import numpy as np
import pytest
from PIL import Image

from lejepa_hf.data import shared_images as module
from lejepa_hf.data.dataset_kinds import Mixture
from lejepa_hf.data.shared_images import SharedImages, shared_images
from lejepa_hf.data.sources import load_source

DIGITS = load_source("digits").dataset
TEST = load_source("digits", "test").dataset


def count(train, held_out, **settings):
    return shared_images([(train, "image")], held_out, "image", **settings)


def test_rows_in_both():
    assert count(DIGITS, TEST) == SharedImages(0, 450)
    assert count(DIGITS.select(range(500)), DIGITS.select(range(400, 600))) == SharedImages(100, 200)
    assert count(DIGITS.shuffle(seed=0), DIGITS.select([3, 700])) == SharedImages(2, 2)
    assert count(Mixture([TEST, DIGITS.select(range(9))], [1, 1]), DIGITS.select(range(5, 20))) == SharedImages(4, 15)
    both = [(TEST, "image"), (DIGITS.select(range(9)).rename_column("image", "scan"), "scan")]
    assert shared_images(both, DIGITS.select(range(5, 20)), "image") == SharedImages(4, 15)


def test_only_some_are_compared():
    assert count(DIGITS.select(range(500)), DIGITS.select(range(400, 600)), most=20) == SharedImages(10, 20)


def test_copies_under_other_names(tmp_path):
    for number in range(12):
        path = tmp_path / ("train" if number < 8 else "test") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number % 9, 0, 0)).save(path)  # 9, 10, 11 are 0, 1, 2
    train, test = (load_source(tmp_path, split).dataset for split in ("train", "test"))
    assert count(train, test) == SharedImages(3, 4)
    stored = datasets.Dataset.from_dict({"image": [(tmp_path / "train/0.png").read_bytes()]})
    stored = load_source(stored, image_column="image").dataset
    assert count(stored, test) == SharedImages(1, 4)  # in a file there, in a row here
    (tmp_path / "test/9.png").unlink()
    assert count(train, test) == SharedImages(2, 3)


def test_large_files_that_differ_in_the_middle(tmp_path):
    for split, values in (("train", (0, 1, 2)), ("test", (2, 3, 4))):
        for value in values:
            picture = np.zeros((300, 300), np.uint8)
            picture[150] = value
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / split / f"{value}.bmp")
    train, test = (load_source(tmp_path, split).dataset for split in ("train", "test"))
    assert count(train, test) == SharedImages(1, 3)
    assert count(train.to_iterable_dataset(), test.to_iterable_dataset()) == SharedImages(1, 3)


def test_only_images_of_the_same_size_are_read(monkeypatch):
    read = []
    monkeypatch.setattr(module, "digest_of", lambda value: read.append(value) or b"x")
    held_out = TEST.select(range(1))
    size = len(held_out[0]["image"]["bytes"])
    shared_images([(DIGITS, "image")], held_out, "image")
    assert len(read) < 1000 and {len(value["bytes"]) for value in read} == {size}


def test_streams_are_compared_by_their_first_rows():
    stream = DIGITS.select(range(50)).to_iterable_dataset()
    assert count(stream, DIGITS.select(range(40, 60)).to_iterable_dataset()) == SharedImages(10, 20)
    assert count(stream, TEST.to_iterable_dataset(), most=30) == SharedImages(0, 30)


def test_other_classes_of_rows():
    assert count(list(DIGITS.select(range(30))), list(DIGITS.select(range(25, 40)))) == SharedImages(5, 15)
    opened = [{"image": Image.new("L", (8, 8))}] * 20
    assert count(opened, opened) == SharedImages(0, 0)

    def torn():
        yield from DIGITS.select(range(3))
        raise ConnectionError("lost")

    assert count(DIGITS, datasets.IterableDataset.from_generator(torn)) == SharedImages(0, 0)


def test_the_warning(caplog):
    SharedImages(0, 9).warn("digits")
    assert not caplog.messages
    SharedImages(3, 1000).warn("digits")
    assert "digits: 3 of 1,000 held-out images are also training images, byte for byte." in caplog.text


@pytest.mark.parametrize("rows", [[], [5]])
def test_no_images(rows):
    assert count(DIGITS, DIGITS.select(rows)) == SharedImages(len(rows), len(rows))
