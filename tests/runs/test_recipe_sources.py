from dataclasses import replace

import datasets
import pytest
from PIL import Image

from lejepa_hf.runs.arguments import DataArguments
from lejepa_hf.runs.recipe_sources import held_out_source, open_sources, open_split, training_source

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


def test_held_out_images_need_labels(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    data = DataArguments(dataset=str(tmp_path), eval_split="train")
    with pytest.raises(ValueError, match="`eval_split` 'train' of .* has no labels: name them with `label_column`"):
        open_sources(data)
    # a mixture is trained on without labels, but the evaluation fits its protocols on those of `dataset`
    entries = [{"dataset": str(tmp_path), "weight": 1.0}]
    assert open_sources(replace(DIGITS, mixture=entries, eval_split="test")).held_out.num_images == 450


def test_the_largest_image_is_that_of_the_recipe(images):
    sources = open_sources(DataArguments(dataset=images, eval_split="test", max_image_pixels=7))
    assert (sources.train.max_image_pixels, sources.held_out.max_image_pixels) == (7, 7)
    assert open_sources(DataArguments(dataset=images)).train.max_image_pixels is None


def test_an_evaluation_of_one_class_is_refused_and_training_is_not(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["only"])})
    rows = {"image": [Image.new("L", (8, 8), row) for row in range(4)], "label": [0] * 4}
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    data = DataArguments(dataset=str(tmp_path))
    assert open_sources(data).train.num_images == 4
    with pytest.raises(ValueError, match="all 4 images to fit protocols on are of class 0.*without `eval_split`"):
        open_sources(replace(data, eval_split="test"))
