import os
from pathlib import Path

import pytest
from datasets import DatasetDict
from pictures import contents, message, number_of, save, table

from lejepa_hf.data.dataset_files import kind_of_files
from lejepa_hf.data.sources import load_source

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_finds_the_image_column(parquet, streaming):
    source = load_source(parquet, streaming=streaming)
    assert (source.image_column, source.label_column, source.class_names) == ("photo", "kind", ["cat", "dog"])
    assert contents(source) == list(range(7))
    assert hasattr(source.dataset, "__len__") != streaming
    if not streaming:
        assert source.num_images == 7


def test_glob_chooses_the_files(parquet):
    assert contents(load_source(parquet.replace("*", "validation*"))) == [4, 5, 6]
    assert contents(load_source(parquet.replace("*", "train-0"), split="train[1:3]")) == [1, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_other_splits_of_parquet_do_not_pass_as_train(parquet, streaming):
    text = message(parquet, split="test", streaming=streaming)
    assert "no split 'test'" in text and "train" in text


@pytest.mark.parametrize("streaming", [False, True])
def test_data_files(parquet, streaming):
    folder = Path(parquet).parent
    both = [str(folder / "validation*"), f"{folder}/train-{{0..0}}.parquet", str(folder / "train-0.parquet")]
    source = load_source("parquet", data_files=both, streaming=streaming)
    assert [number_of(row["photo"]) for row in source.dataset] == [4, 5, 6, 0, 1, 2, 3]  # a file met twice: once
    assert contents(load_source("parquet", data_files=both[0], streaming=streaming)) == [4, 5, 6]
    assert "`data_files` is missing" in message("parquet", streaming=streaming)
    assert "`data_files`" in message(parquet, data_files=both, streaming=streaming)


def test_globs_are_sorted(tmp_path):
    for number in (10, 2, 33, 1):
        table([number]).to_parquet(tmp_path / f"{number:02}.parquet")
    for streaming in (False, True):
        rows = load_source(f"{tmp_path}/*.parquet", streaming=streaming).dataset
        assert [number_of(row["photo"]) for row in rows] == [1, 2, 10, 33]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_with_a_bracket_in_its_name(tmp_path, streaming):
    table([3]).to_parquet(tmp_path / "train[1].parquet")
    assert contents(load_source(str(tmp_path / "train[1].parquet"), streaming=streaming)) == [3]


def test_no_such_parquet(tmp_path):
    table([1]).to_parquet(tmp_path / "shard-0.parquet")
    text = message(str(tmp_path / "shard-1.parquet"))
    assert "no such file" in text and "shard-0.parquet" in text


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_splits(tmp_path, streaming):
    both = DatasetDict({"train": table([0, 1, 2]), "test": table([3, 4])})
    both.with_format("torch").save_to_disk(tmp_path / "saved")
    source = load_source(tmp_path / "saved", "test", streaming=streaming)
    assert (contents(source), source.num_images) == ([3, 4], 2)
    assert contents(load_source(tmp_path / "saved", "train[1:]", streaming=streaming)) == [1, 2]
    assert contents(load_source(tmp_path / "saved", "test+train[:1]", streaming=streaming)) == [0, 3, 4]
    with pytest.raises(ValueError, match="no split 'val'.*train.*test"):
        load_source(tmp_path / "saved", "val", streaming=streaming)


def test_a_saved_dataset_without_splits_is_train(tmp_path):
    table([0, 1, 2]).save_to_disk(tmp_path / "saved")
    assert contents(load_source(tmp_path / "saved")) == [0, 1, 2]
    with pytest.raises(ValueError, match="no split 'test'"):
        load_source(tmp_path / "saved", "test")
    with pytest.raises(ValueError, match="the split 'train\\[3:\\]' is empty"):
        load_source(tmp_path / "saved", "train[3:]")


def test_a_saved_dataset_that_lost_a_file(tmp_path):
    table([0, 1, 2]).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"saved' cannot be read: .*Save it again with `save_to_disk`"):
        load_source(tmp_path / "saved")


def test_images_beside_some_state_are_a_folder_of_images(tmp_path):
    save(tmp_path / "0.png", 7)
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")
    assert contents(load_source(tmp_path)) == [7]


@pytest.mark.parametrize("streaming", [False, True])
def test_pipes_are_not_files_of_a_dataset(parquet, streaming):
    folder = Path(parquet).parent
    os.mkfifo(folder / "train-1.parquet")
    assert contents(load_source(parquet, streaming=streaming)) == list(range(7))
    assert "no such file" in message(str(folder / "train-1.parquet"), streaming=streaming)
    assert message(str(folder), streaming=streaming).endswith("found 2 .parquet, 1 not a regular file.")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/b.parquet", "parquet"),
        ("a/*.tar.gz", "webdataset"),
        ("https://a.org/b.tar?key=1", "webdataset"),
        ("a/x.zarr/", "arrays"),
        ("a/*.h5", "arrays"),
        ("scans/*.nii.gz", "images"),
        ("*.tif", "images"),
        ("series/{00..12}.dcm", "images"),
        ("https://a.org/*.png", None),
        ("me/photos", None),
        ("photo.png", None),
        ("scan.nii.gz", None),  # which is not there
    ],
)
def test_kinds_of_files_by_their_names(name, kind):
    assert kind_of_files(name) == kind
