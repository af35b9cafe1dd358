import os
from pathlib import Path

import pyarrow as pa
import pytest
from photo_tables import write_photos, write_table
from pyarrow import parquet

from lejepa_hf.data.held_out_share import split_off
from lejepa_hf.data.label_columns import with_labels
from lejepa_hf.data.row_groups import groups_of
from lejepa_hf.data.sources import load_source

SPECIES = ["oak", "fir", None, "oak"]


def paths(source) -> list[str]:
    return [row[source.image_column]["path"] for row in source.dataset]


def message(*arguments, **settings) -> str:
    with pytest.raises(ValueError) as raised:
        load_source(*arguments, **settings)
    return str(raised.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_of_each_kind(tmp_path, ending, streaming):
    names = write_photos(tmp_path, 4)
    table = write_table(tmp_path / f"trees{ending}", species=SPECIES, where=names, height=[3, 4, None, 5])
    source = load_source(table, streaming=streaming, label_column="species")
    assert (source.image_column, source.label_column, source.num_images) == ("where", "species", 4)
    assert paths(source) == [str(tmp_path / name) for name in names]
    assert [row["species"] for row in source.dataset] == SPECIES
    assert [row["height"] for row in source.dataset] == [3, 4, None, 5]
    assert with_labels(source).class_names == ["fir", "oak"]
    assert load_source(table, streaming=streaming).label_column is None  # a height is not a class


def test_data_files_and_several_tables(tmp_path):
    names = write_photos(tmp_path, 4)
    one = write_table(tmp_path / "one.csv", file=names[:2], label=["a", "b"])
    two = write_table(tmp_path / "two.csv", file=names[2:], label=["c", None])
    source = load_source("csv", data_files=[one, two])
    assert len(paths(source)) == 4 and source.label_column == "label"
    assert paths(load_source(str(tmp_path / "*.csv"))) == paths(source)
    assert load_source("csv", data_files=one).name == one
    assert "`data_files` is missing" in message("csv")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_splits(tmp_path, streaming, caplog):
    names = write_photos(tmp_path, 6)
    splits = ["Training", "val", "train", "TEST", None, "valid"]
    table = write_table(tmp_path / "photos.csv", image=names, Split=splits)

    def found(split: str) -> list[str]:
        return [Path(path).stem for path in paths(load_source(table, split, streaming=streaming))]

    assert (found("train"), found("validation"), found("test")) == (["000", "002"], ["001", "005"], ["003"])
    assert found("train+test") == ["000", "002", "003"]
    assert streaming or found("train[1:]") == ["002"]
    assert "1 of 6 rows have no value in 'Split'" in caplog.text
    assert "has no split 'dev'" in message(table, "dev") and "validation" in message(table, "dev")
    strange = write_table(tmp_path / "strange.csv", image=names, split=["a b"] * 6)
    assert "the column 'split' names the split of each image, but holds 'a b'" in message(strange)


def test_images_that_do_not_exist_are_counted(tmp_path):
    names = write_photos(tmp_path, 3)
    table = write_table(tmp_path / "photos.csv", image=[*names, "photos/9.png", "", "gone/1.png"], n=[1] * 6)
    assert f"3 of 6 images in column 'image' do not exist, the first one is {tmp_path}/photos/9.png" in message(table)
    lost = write_table(tmp_path / "lost.csv", Path=["a.png", "b.png"], kind=["x", "y"])
    assert "2 of 2 images in column 'Path' do not exist" in message(lost)


def test_absolute_paths_and_those_of_the_current_folder(tmp_path, monkeypatch):
    names = write_photos(tmp_path / "images", 2)
    (tmp_path / "tables").mkdir()
    absolute = write_table(tmp_path / "tables" / "one.csv", at=[str(tmp_path / "images" / name) for name in names])
    assert paths(load_source(absolute)) == [str(tmp_path / "images" / name) for name in names]
    relative = write_table(tmp_path / "tables" / "two.parquet", at=names, kind=["x", "y"])
    monkeypatch.chdir(tmp_path / "images")
    source = load_source(relative, image_column="at")
    assert [Path(path).parent.parent for path in paths(source)] == [tmp_path / "images"] * 2


def test_which_column_holds_the_paths(tmp_path):
    names = write_photos(tmp_path, 2)
    table = write_table(tmp_path / "two.csv", mask=names, scan=names, kind=["x", "y"])
    found = message(table)
    assert "has 2 columns of paths (mask, scan): set `image_column`" in found and "kind: string" in found
    assert load_source(table, image_column="scan").image_column == "scan"
    assert load_source(write_table(tmp_path / "usual.csv", mask=names, image=names)).image_column == "image"
    none = message(write_table(tmp_path / "none.csv", kind=["x", "y"], size=[1, 2]))
    assert "no column whose first values are files" in none and "set `image_column`" in none and "size: int64" in none
    assert "`image_column` 'size' is not a column of paths" in message(
        table.replace("two", "none"), image_column="size"
    )


def test_urls_are_left_as_they_are(tmp_path):
    table = write_table(tmp_path / "web.csv", image=["https://a.example/1.png", "https://a.example/2.png"])
    assert paths(load_source(table)) == ["https://a.example/1.png", "https://a.example/2.png"]
    assert "download the table and its images" in message("https://a.example/photos.csv")


def test_parquet_files_with_images_stay_what_they_are(tmp_path):
    load_source("digits").dataset.select(range(3)).to_parquet(tmp_path / "digits.parquet")
    source = load_source(str(tmp_path / "digits.parquet"))
    assert (source.num_images, source.label_column) == (3, "label")
    lists = pa.table({"image": write_photos(tmp_path, 2), "marks": [["a"], ["a", "b"]]})
    parquet.write_table(lists, tmp_path / "lists.parquet")
    assert len(paths(load_source(str(tmp_path / "lists.parquet")))) == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", "cannot be read as a table"),
        (b"image,kind\na.png,x,y\n", "cannot be read as a table"),
        ("image,art\nb\u00e4r.png,x\n".encode("latin-1"), "cannot be read as a table in UTF-8"),
        (b"image,image\na.png,b.png\n", "several columns called 'image'"),
    ],
)
def test_files_that_are_not_tables(tmp_path, text, found):
    (tmp_path / "bad.csv").write_bytes(text)
    assert found in message(str(tmp_path / "bad.csv"))
    assert "no such file" in message(str(tmp_path / "photo.csv"))


def test_tables_of_spreadsheets(tmp_path):
    names = write_photos(tmp_path, 2)
    text = f'\ufeffimage;note;age\n{names[0]};"two\nlines; quoted";NA\n{names[1]};;7\n'
    (tmp_path / "sheet.csv").write_text(text, encoding="utf-8")
    rows = list(load_source(str(tmp_path / "sheet.csv")).dataset)
    assert [(row["note"], row["age"]) for row in rows] == [("two\nlines; quoted", None), (None, 7)]


def test_the_held_out_share_does_not_depend_on_where_the_folder_lies(tmp_path, monkeypatch):
    held_out = []
    for place in ("here", "there"):
        names = write_photos(tmp_path / place, 20)
        table = write_table(tmp_path / place / "photos.csv", image=names, patient=[f"p{n // 4}" for n in range(20)])
        source = load_source(table)
        held_out.append([os.path.basename(path) for path in paths(split_off(source, "20%")[1])])
        streamed = split_off(load_source(table, streaming=True), "50%")[1]
        assert 0 < len(paths(streamed)) < 20
    assert held_out[0] == held_out[1] and len(held_out[0]) == 4
    assert set(groups_of(source, "1")) == {"photos"}
    train, test = split_off(source, "40%", "patient")
    assert not {row["patient"] for row in train.dataset} & {row["patient"] for row in test.dataset}


def test_a_header_with_spaces(tmp_path):
    names = write_photos(tmp_path, 2)
    text = f"file, label, split\n{names[0]},a,train\n{names[1]},b,test\n"
    (tmp_path / "photos.csv").write_text(text)
    source = load_source(str(tmp_path / "photos.csv"))
    assert source.label_column == "label" and paths(source) == [str(tmp_path / names[0])]


def test_a_table_without_a_header_is_refused(tmp_path):
    names = write_photos(tmp_path, 2)
    (tmp_path / "photos.csv").write_text("".join(f"{name},a\n" for name in names))
    assert f"its first row names a file, {names[0]!r}, instead of columns" in message(str(tmp_path / "photos.csv"))


def test_codes_that_begin_with_zeros_stay_texts(tmp_path):
    names = write_photos(tmp_path, 4)
    table = write_table(tmp_path / "photos.csv", file=names, patient=["007", "7", "1e3", "1000"], age=[1, 2, 3, 40])
    source = load_source(table)
    assert [row["patient"] for row in source.dataset] == ["007", "7", "1e3", "1000"]
    assert [row["age"] for row in source.dataset] == [1, 2, 3, 40]


def test_tables_that_do_not_fit_together(tmp_path):
    names = write_photos(tmp_path, 2)
    one = write_table(tmp_path / "one.csv", file=names[:1], label=[1])
    two = write_table(tmp_path / "two.csv", file=names[1:], label=["oak"])
    assert "its tables do not fit together" in message("csv", data_files=[one, two])
