import re
from dataclasses import replace

import datasets
import pytest
from PIL import Image

from lejepa_hf.data.dataset_kinds import count_classes
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.image_contents import checksum_of_rows
from lejepa_hf.runs.arguments import DataArguments
from lejepa_hf.runs.recipe_sources import (
    fitting_source,
    held_out_source,
    open_sources,
    open_split,
    training_source,
)

DIGITS = DataArguments(dataset="digits")


@pytest.fixture
def images(tmp_path):
    """A folder of Parquet files with a training and a test split whose columns have names of their own."""
    features = datasets.Features({"scan": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])})
    for split, number in (("train", 6), ("test", 4)):
        rows = {"scan": [Image.new("L", (8, 8), row) for row in range(number)], "kind": [0, 1] * (number // 2)}
        path = tmp_path / "images" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return str(tmp_path / "images")


def test_one_source(images):
    data = DataArguments(dataset=images, eval_split="test")
    train, held_out, _ = open_sources(data)
    assert (train.num_images, train.image_column, train.label_column) == (6, "scan", "kind")
    assert (held_out.num_images, held_out.class_names) == (4, ["a", "b"])
    assert training_source(data).num_images == 6 and open_split(data, "test").num_images == 4


@pytest.mark.parametrize("streaming", [False, True])
def test_parts_of_files_are_images_by_the_keys_of_the_recipe(tmp_path, streaming):
    for number in range(12):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
    data = DataArguments(dataset=str(tmp_path), window_size=10, eval_split="25%", streaming=streaming)
    sides = training_source(data), held_out_source(data)
    files = [{row["image"]["path"].split("#")[0] for row in side.dataset} for side in sides]
    rows = [sum(1 for _ in side.dataset) for side in sides]
    assert not files[0] & files[1] and rows == [12 * len(of_side) for of_side in files] and sum(rows) == 144


def test_columns_and_streaming_are_those_of_the_recipe(images):
    with pytest.raises(ValueError, match="`image_column` 'picture'"):
        training_source(DataArguments(dataset=images, image_column="picture"))
    with pytest.raises(ValueError, match="validation"):
        training_source(DataArguments(dataset=images, train_split="validation"))
    streamed = training_source(DataArguments(dataset=images, streaming=True))
    assert isinstance(streamed.dataset, datasets.IterableDataset)


def test_without_held_out_images():
    sources = open_sources(DIGITS)
    assert sources.held_out is None and sources.held_out_dataset is None and held_out_source(DIGITS) is None


def test_held_out_images_have_the_columns_of_a_mixture(images):
    entries = [{"dataset": images, "weight": 1.0}, {"dataset": "digits", "weight": 3.0}]
    data = DataArguments(dataset=images, eval_split="test", mixture=entries)
    sources = open_sources(data)
    assert sources.train.num_images == 6 + 1347 and sources.train.image_column == "image"
    assert sources.train.name == "a mixture of 2 datasets"
    assert sources.held_out_dataset.column_names == ["image", "kind"]
    assert sources.held_out.dataset.column_names == ["scan", "kind"], "the source itself stays as it is"


def test_names_that_agree_stay():
    sources = open_sources(replace(DIGITS, eval_split="test"))
    assert sources.held_out_dataset is sources.held_out.dataset


def red_images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
    return str(folder)


def test_held_out_images_need_no_labels(tmp_path, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    folder = red_images(
        tmp_path / "red", *(f"{split}/{number}.png" for split in ("train", "test") for number in "012")
    )
    sources = open_sources(DataArguments(dataset=folder, eval_split="test"))
    assert sources.held_out.label_column is None and sources.held_out.num_images == 3
    assert "without labels the evaluation has no accuracies" in caplog.text
    with pytest.raises(ValueError, match="`eval_split` 'train' of .* has images that `train_split` 'train' reads too"):
        open_sources(DataArguments(dataset=folder, eval_split="train"))
    # A mixture is trained on without labels, but the evaluation fits its protocols on those of `dataset`.
    entries = [{"dataset": folder, "weight": 1.0}]
    assert open_sources(replace(DIGITS, mixture=entries, eval_split="test")).held_out.label_column == "label"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_share_is_never_trained_on(streaming):
    data = DataArguments(dataset="digits", eval_split="10%", streaming=streaming)
    sources = open_sources(data)
    sides = [[row["image"]["bytes"] for row in source.dataset] for source in (sources.train, sources.held_out)]
    assert sorted(sides[0] + sides[1]) == sorted(row["image"]["bytes"] for row in open_split(data, "train").dataset)
    assert len(sides[1]) == pytest.approx(135, abs=35 if streaming else 0)
    for one, again in ((training_source, sides[0]), (fitting_source, sides[0]), (held_out_source, sides[1])):
        assert [row["image"]["bytes"] for row in one(data).dataset] == again, "as when the run began"


def test_groups_of_a_share_and_of_two_splits(tmp_path):
    plots = [f"{split}/plot {plot}/{n}.png" for split, plot in (("train", 1), ("train", 2), ("test", 2)) for n in "ab"]
    folder = red_images(tmp_path / "plots", *plots)
    data = DataArguments(dataset=folder, eval_split="test", group_column="2", label_column=None)
    with pytest.raises(ValueError, match="1 of the 1 groups of `eval_split` 'test' are in `train_split` 'train' too"):
        open_sources(data)
    with pytest.raises(ValueError, match="`group_column` '2' cannot be checked for the splits of a stream"):
        open_sources(replace(data, streaming=True))
    (tmp_path / "plots/test/plot 2").rename(tmp_path / "plots/test/plot 3")
    assert open_sources(replace(data, eval_protocols=["knn"], eval_split="50%")).held_out.num_images == 2


def test_shares_and_groups_that_have_no_meaning():
    entries = [{"dataset": "digits"}]
    with pytest.raises(ValueError, match="`eval_split` '10%' is a share of `dataset`, but with `mixture`"):
        replace(DIGITS, eval_split="10%", mixture=entries)
    with pytest.raises(ValueError, match="`group_column` 'patient' has no meaning without held-out images"):
        replace(DIGITS, group_column="patient")
    with pytest.raises(ValueError, match="`eval_split` '0%' is neither a split nor a share"):
        replace(DIGITS, eval_split="0%")


def test_the_largest_image_is_that_of_the_recipe(images):
    sources = open_sources(DataArguments(dataset=images, eval_split="test", max_image_pixels=7))
    assert (sources.train.max_image_pixels, sources.held_out.max_image_pixels) == (7, 7)
    assert open_sources(DataArguments(dataset=images)).train.max_image_pixels is None


def test_ids_of_classes_are_numbered_alike_in_both_splits(tmp_path):
    for split, labels in (("train", [70_000, 8, 70_000, 12]), ("test", [8, 70_000, 8, None])):
        rows = {"image": [Image.new("L", (8, 8), row) for row in range(4)], "label": labels}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    sources = open_sources(DataArguments(dataset=str(tmp_path), eval_split="test", label_column="label"))
    assert sources.train.class_names == sources.held_out.class_names == ["8", "12", "70000"]
    assert (list(sources.train.dataset["label"]), list(sources.held_out.dataset["label"])) == ([2, 0, 2, 1], [0, 2, 0])
    assert count_classes(sources.train.dataset, "label") == 3  # of the online probe


TRAINING_IMAGES = "`eval_split` '{split}' of .* has images that {reader} reads too"


@pytest.mark.parametrize("streaming", [False, True])
def test_training_images_are_not_held_out(images, streaming):
    for split, reader in (("train", "train"), ("test+train", "train"), ("test", "test+train")):
        data = DataArguments(dataset=images, train_split=reader, eval_split=split, streaming=streaming)
        expected = TRAINING_IMAGES.format(split=re.escape(split), reader=re.escape(f"`train_split` '{reader}'"))
        with pytest.raises(ValueError, match=expected):
            open_sources(data)
    assert open_sources(DataArguments(dataset=images, eval_split="test", streaming=streaming)).held_out


def test_slices_that_overlap(images):
    def data(train_split, eval_split):
        return DataArguments(dataset=images, train_split=train_split, eval_split=eval_split)

    for train_split, eval_split, common in (
        ("train", "train[:50%]", "train[0:3]"),
        ("train[:4]", "train[3:]", "train[3:4]"),
        ("train[:4]", "train[-3:]", "train[3:4]"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"({common}): figures on them are not held out")):
            open_sources(data(train_split, eval_split))
    assert open_sources(data("train[:50%]", "train[50%:]")).held_out.num_images == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_mixture_with_the_images_of_the_evaluation(images, streaming):
    entries = [{"dataset": "digits"}, {"dataset": f"{images}/.", "split": "test"}]
    data = DataArguments(dataset=images, eval_split="test", mixture=entries, streaming=streaming)
    with pytest.raises(ValueError, match=TRAINING_IMAGES.format(split="test", reader="entry 1 of `mixture`")):
        open_sources(data)
    assert open_sources(replace(data, mixture=[{"dataset": "digits"}, {"dataset": images}])).held_out


def test_an_evaluation_of_one_class_is_refused_and_training_is_not(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["only"])})
    rows = {"image": [Image.new("L", (8, 8), row) for row in range(4)], "label": [0] * 4}
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    data = DataArguments(dataset=str(tmp_path))
    assert open_sources(data).train.num_images == 4
    with pytest.raises(ValueError, match="all 4 images to fit protocols on are of class 0.*without `eval_split`"):
        open_sources(replace(data, eval_split="test"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_list_of_images_per_row(tmp_path, streaming):
    photos = [[Image.new("RGB", (8, 9), (row, k, 0)) for k in range(1 + row % 3)] for row in range(6)]
    features = datasets.Features({"photos": datasets.List(datasets.Image()), "kind": datasets.ClassLabel(names=["a"])})
    path = str(tmp_path / "objects.parquet")
    datasets.Dataset.from_dict({"photos": photos, "kind": [0] * 6}, features=features).to_parquet(path)
    source = training_source(DataArguments(dataset=path, view_column="photos", streaming=streaming))
    assert source.image_column == "photos" and source.label_column == "kind"
    row = next(row for row in source.dataset if len(row["photos"]) == 3)
    assert all(image["bytes"].startswith(b"\x89PNG") for image in row["photos"])  # not decoded
    first = decode_image(row["photos"])
    assert first.size == (8, 9) and first.getpixel((0, 0)) == (2, 0, 0)
    assert checksum_of_rows(source.dataset, "photos") is not None


def test_a_view_column_of_single_images(images):
    with pytest.raises(ValueError, match="`view_column` 'scan' of .* holds single images, not a list"):
        training_source(DataArguments(dataset=images, view_column="scan"))
    for other in ({"image_column": "scan"}, {"mixture": [{"dataset": images}]}):
        (name,) = other
        with pytest.raises(ValueError, match=f"`view_column` 'photos' holds the images, but `{name}` is"):
            DataArguments(dataset=images, view_column="photos", **other)
