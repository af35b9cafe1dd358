import io

import numpy as np
import pytest
from pictures import message
from PIL import Image

from lejepa_hf.data.sources import load_source

pytestmark = pytest.mark.usefixtures("own_cache")


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    train, test = load_source("digits"), load_source("digits", split="test")
    assert (train.num_images, test.num_images) == (1347, 450)
    assert (train.image_column, train.label_column) == ("image", "label")
    assert train.class_names == [str(digit) for digit in range(10)]
    scans, labels = load_digits(return_X_y=True)
    remaining = sorted(
        (np.round(scan * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for scan, label in zip(scans, labels, strict=True)
    )
    loaded = []
    for source in (train, test):
        for row in source.dataset:
            pixels = Image.open(io.BytesIO(row["image"]["bytes"]))
            assert (pixels.mode, pixels.size) == ("L", (8, 8))
            loaded.append((pixels.tobytes(), row["label"]))
    # Every scan once, in one of the splits: nothing doubled and nothing lost means that they are disjoint.
    assert sorted(loaded) == remaining
    assert len(set(remaining)) == 1797


def test_digits_are_stratified_and_always_the_same():
    train, test = load_source("digits"), load_source("digits", split="test")
    shares = [np.bincount(source.dataset["label"]) / source.num_images for source in (train, test)]
    np.testing.assert_allclose(*shares, atol=2 / 450)
    assert load_source("digits").dataset.to_dict() == train.dataset.to_dict()


def test_streamed_digits():
    stream, dataset = load_source("digits", streaming=True), load_source("digits")
    assert not hasattr(stream.dataset, "__len__")
    assert (stream.image_column, stream.label_column, stream.class_names) == ("image", "label", dataset.class_names)
    assert list(stream.dataset) == list(dataset.dataset)


@pytest.mark.parametrize("split", ["validation", "train[:10]"])
def test_unknown_digits_split(split):
    assert message("digits", split=split).endswith(f"has the splits train and test, got {split!r}.")
