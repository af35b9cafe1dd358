import pytest
from photo_tables import write_photos, write_table

from lejepa_hf.data.sources import load_source


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_columns_of_a_folder(tmp_path, ending, streaming, caplog):
    names = write_photos(tmp_path, 4)
    write_table(
        tmp_path / f"metadata{ending}",
        file_name=[*names[:0:-1], "photos/gone.png"],
        site=["c", "b", "a", "x"],
        age=[3, 2, 1, 9],
    )
    source = load_source(str(tmp_path), streaming=streaming, label_column="site")
    found = [(row["image"]["path"][-7:], row["site"], row["age"]) for row in source.dataset]
    assert found == [("000.png", None, None), ("001.png", "a", 1), ("002.png", "b", 2), ("003.png", "c", 3)]
    assert "1 rows of metadata name no image, the first one is photos/gone.png" in caplog.text
    assert "1 images have no row in metadata, the first one is photos/000.png" in caplog.text
    assert load_source(str(tmp_path)).label_column is None  # an age is not a class


def test_a_file_in_each_split(tmp_path):
    for split in ("train", "test"):
        names = write_photos(tmp_path / split, 3)
        write_table(tmp_path / split / "metadata.csv", file_name=names, label=[split, "b", "a"])
    train, test = (load_source(str(tmp_path), split) for split in ("train", "test"))
    assert [row["label"] for row in train.dataset] == ["train", "b", "a"] and train.label_column == "label"
    assert [row["label"] for row in test.dataset] == ["test", "b", "a"]


def test_classes_of_folders_stay_beside_other_columns(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()
    write_table(tmp_path / "metadata.csv", file_name=["cat/0.png", "dog/0.png"], weight=[1.5, 2])
    source = load_source(str(tmp_path))
    assert source.class_names == ["cat", "dog"]
    assert [(row["label"], row["weight"]) for row in source.dataset] == [(0, 1.5), (1, 2.0)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name\n1.png\n", "has no column `file_name`"),
        ("", "cannot be read as a table"),
        ("file_name,image\na,b", "`image`"),
    ],
)
def test_files_that_do_not_fit_are_not_used(tmp_path, text, found, caplog):
    write_photos(tmp_path, 2)
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    assert list(load_source(str(tmp_path)).features) == ["image"]
    assert found in caplog.text and "not used" in caplog.text


def test_several_rows_for_an_image_are_counted(tmp_path, caplog):
    (name,) = write_photos(tmp_path, 1)
    write_table(tmp_path / "metadata.csv", file_name=[name, name], site=["a", "b"])
    assert load_source(str(tmp_path)).dataset["site"][0] == "b"
    assert "1 further rows for the same images; the last one counts" in caplog.text


def test_file_names_that_are_numbers(tmp_path, caplog):
    write_photos(tmp_path, 1)
    write_table(tmp_path / "metadata.csv", file_name=[0, 1], site=["a", "b"])
    load_source(str(tmp_path))
    assert "2 rows of metadata name no image, the first one is 0" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_column_of_splits(tmp_path, ending, streaming, caplog):
    names = write_photos(tmp_path, 6)
    write_table(tmp_path / f"metadata{ending}", file_name=names[:5], Split=["Training", "val", "train", "TEST", None])

    def found(split: str) -> list[str]:
        rows = load_source(str(tmp_path), split, streaming=streaming).dataset
        return [row["image"]["path"][-7:-4] for row in rows]

    assert (found("train"), found("validation"), found("test")) == (["000", "002"], ["001"], ["003"])
    assert found("test+train") == ["003", "000", "002"]
    assert "2 of 6 rows have no value in 'Split' and are left out" in caplog.text
    with pytest.raises(ValueError, match="has no split 'dev'.*validation"):
        found("dev")


def test_a_column_of_splits_wins_over_folders(tmp_path):
    """Images that it does not name stay in the split of their folder."""
    for split in ("train", "test"):
        names = write_photos(tmp_path / split, 3)
        write_table(tmp_path / split / "metadata.csv", file_name=names[:2], split=["validation", split])
    found = {
        split: [row["image"]["path"][len(str(tmp_path)) + 1 :] for row in load_source(str(tmp_path), split).dataset]
        for split in ("train", "validation", "test")
    }
    assert found == {
        split: [f"{folder}/photos/{number}.png" for folder, number in places]
        for split, places in {
            "train": [("train", "001"), ("train", "002")],
            "validation": [("test", "000"), ("train", "000")],
            "test": [("test", "001"), ("test", "002")],
        }.items()
    }


def test_folders_of_classes_keep_their_labels_in_each_split(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").touch()
    files = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    write_table(tmp_path / "metadata.csv", file_name=files, split=["train", "test"] * 2)
    train, test = (load_source(str(tmp_path), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["cat", "dog"]
    assert list(train.dataset["label"]) == list(test.dataset["label"]) == [0, 1]


def test_words_that_are_not_splits_are_refused(tmp_path):
    names = write_photos(tmp_path, 2)
    write_table(tmp_path / "metadata.csv", file_name=names, split=["fold 1", "fold 2"])
    with pytest.raises(ValueError, match="the column 'split' names the split of each image, but holds 'fold 1'"):
        load_source(str(tmp_path))
