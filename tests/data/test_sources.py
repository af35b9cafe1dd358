import io

import numpy as np
import pytest
from datasets import DatasetDict, IterableDataset
from datasets import Image as ImageFeature
from pictures import contents, message, table
from PIL import Image

from lejepa_hf.data.sources import load_source

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_given_dataset(tmp_path):
    given = table(range(6))
    source = load_source(given)
    assert (source.image_column, source.label_column, source.class_names) == ("photo", "kind", ["cat", "dog"])
    assert (source.num_images, contents(source)) == (6, list(range(6)))
    assert isinstance(source.name, str) and len(source.name) < 40
    stream = load_source(given, streaming=True)
    assert isinstance(stream.dataset, IterableDataset)
    assert (stream.num_images, contents(stream)) == (6, list(range(6)))
    assert given.features["photo"].decode  # the caller's own is as it was


@pytest.mark.parametrize("streaming", [False, True])
def test_a_given_dataset_with_a_format(streaming):
    given = table(range(6)).with_transform(lambda rows: {"photo": [0] * 6})
    assert contents(load_source(given, streaming=streaming)) == list(range(6))
    assert contents(load_source(table(range(6)).with_format("numpy"), streaming=streaming)) == list(range(6))


def test_given_splits():
    given = DatasetDict(train=table(range(3)), test=table([9]))
    assert contents(load_source(given)) == [0, 1, 2]
    assert contents(load_source(given, split="test", streaming=True)) == [9]
    assert message(given, split="dev") == "`dataset` has no split 'dev': it has train, test."


@pytest.mark.parametrize("streaming", [False, True])
def test_joined_splits(tmp_path, streaming):
    given = DatasetDict(train=table(range(3)), test=table([9]))
    for name in (given, str(tmp_path / "saved")):
        given.save_to_disk(tmp_path / "saved")
        source = load_source(name, split="train + test", streaming=streaming)
        assert (source.num_images, contents(source)) == (4, [0, 1, 2, 9])
    assert "no split 'dev': it has train, test" in message(given, split="train+dev", streaming=streaming)
    assert load_source("digits", split="train+test", streaming=streaming).num_images == 1797
    assert "got 'dev'" in message("digits", split="train+dev", streaming=streaming)


def test_joined_splits_of_parquet_files_are_read_by_row_groups(tmp_path):
    for split, numbers in {"train": range(3), "test": range(3, 8)}.items():
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in numbers:
            table([number]).to_parquet(tmp_path / "set" / split / f"{number}.parquet")
    source = load_source(str(tmp_path / "set"), split="train+test", streaming=True)
    assert (source.num_images, source.dataset.num_shards, contents(source)) == (8, 8, list(range(8)))


def test_a_given_stream(parquet):
    whole = load_source(parquet, streaming=True).dataset
    source = load_source(whole)
    assert (source.image_column, contents(source)) == ("photo", list(range(7)))
    # `datasets` goes on saying 7 of what is left.
    assert load_source(whole.take(3)).num_images is None
    assert load_source(parquet, streaming=True).num_images == 7


def test_a_given_stream_without_a_schema():
    rows = list(table(range(3)).cast_column("photo", ImageFeature(decode=False)))
    source = load_source(IterableDataset.from_generator(lambda: iter(rows)))
    assert (source.image_column, contents(source)) == ("photo", [0, 1, 2])


def test_what_is_no_dataset():
    assert "got list; several files go into `data_files`" in message(["a.parquet"])
    assert "`revision`" in message(table([1]), revision="main")
    assert "is empty" in message(table([]).select([]))


def test_the_largest_image_is_a_setting_of_any_source(parquet):
    for given in (table(range(3)), parquet, DatasetDict(train=table(range(3)))):
        assert load_source(given, max_image_pixels=7).max_image_pixels == 7
        assert load_source(given).max_image_pixels is None


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_no_pixels_is_refused(limit):
    with pytest.raises(ValueError, match=f"`max_image_pixels` must be at least 1, got {limit}"):
        load_source("digits", "train", max_image_pixels=limit)


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


@pytest.mark.parametrize("split", ["validation", "train+validation", "validation[:10]"])
def test_unknown_digits_split(split):
    assert message("digits", split=split).endswith("has the splits train and test, got 'validation'.")


def test_slices_of_digits():
    def labels(split):
        return list(load_source("digits", split).dataset["label"])

    train, test = labels("train"), labels("test")
    assert labels("train[:10]") == train[:10]
    assert labels("test[-5:] + train[:-1000]") == test[-5:] + train[:-1000]
    assert [row["label"] for row in load_source("digits", "test[3:6]", streaming=True).dataset] == test[3:6]
