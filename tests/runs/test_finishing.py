import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from datasets import IterableDataset
from PIL import Image

from lejepa_hf import LeJEPAForPreTraining, MultiCropCollator, MultiCropTransform, export_encoder, outcome
from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.data.streaming import EndlessRows
from lejepa_hf.evaluation.embedding_statistics import embedding_statistics
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings, extract_embeddings
from lejepa_hf.evaluation.evaluate_encoder import load_encoder
from lejepa_hf.evaluation.projections import extract_projections
from lejepa_hf.hub.export import build_processor
from lejepa_hf.runs.finishing import measure_projections, picture_neighbours, picture_patches
from lejepa_hf.runs.pretraining import build_model
from lejepa_hf.runs.recipes import parse_recipe


@pytest.fixture
def untrained(tmp_path, tiny_resnet):
    """A run folder with a model as it was drawn, and its recipe."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "dataset: digits\nuse_cpu: true\nseed: 7\nglobal_crop_size: 16\nlocal_crop_size: 12\nblur_kernel_size: 5\n"
        "projector_dims: [16, 8]\nnum_knots: 4\nt_max: 1.0\n"
        f"backbone_config: {json.dumps(tiny_resnet)}\noutput_dir: {tmp_path}\n"
    )
    recipe = parse_recipe(recipe)
    build_model(recipe.model).save_pretrained(tmp_path / "pretraining")
    return tmp_path, recipe


def test_projections_are_measured_on_the_first_images_of_the_run(untrained):
    folder, recipe = untrained
    found = measure_projections(folder, recipe, num_images=50)
    rows = EndlessRows(load_source("digits").dataset, batch_size=50, seed=7)
    collator = MultiCropCollator(MultiCropTransform.from_settings(recipe.data, seed=7))
    model = LeJEPAForPreTraining.from_pretrained(folder / "pretraining")
    expected = extract_projections(model, islice(rows, 50), collator, recipe.training.per_device_train_batch_size)
    assert expected.shape == (8, 50, 8)
    assert found.metrics() == pytest.approx(embedding_statistics(expected, num_knots=4, t_max=1.0).metrics(), rel=1e-3)
    assert json.loads((folder / "statistics.json").read_text()) == {"num_images": 50, **found.metrics()}


def test_a_stream_is_read_no_further_than_needed(untrained, monkeypatch):
    folder, recipe = untrained
    scan, read = load_source("digits").dataset[0]["image"], []

    def rows():
        for number in range(3000):
            read.append(number)
            yield {"image": scan}

    source = ImageSource(IterableDataset.from_generator(rows), "endless", "image")
    monkeypatch.setattr(outcome, "training_source", lambda data: source)
    assert measure_projections(folder, recipe, num_images=20).num_images == 20
    assert len(read) <= 100  # rows are read 32 at a time


def test_images_that_a_stream_has_not_are_not_repeated(untrained):
    folder, recipe = untrained
    images = folder / "images"
    images.mkdir()
    for number in range(12):
        Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(images / f"{number}.png")
    recipe.data.dataset, recipe.data.streaming = str(images), True
    assert measure_projections(folder, recipe, num_images=100).num_images == 12


def picture_of(folder, recipe) -> bytes:
    path = picture_patches(folder, recipe)
    assert path == folder / "pictures" / "pca_maps.png"
    return path.read_bytes()


def test_patches_of_training_images_and_of_held_out_ones(untrained):
    folder, recipe = untrained
    export_encoder(folder)
    first = picture_of(folder, recipe)
    assert picture_of(folder, recipe) == first
    recipe.data.eval_split = "test"
    assert picture_of(folder, recipe) != first


def test_broken_images_are_passed_over_in_the_picture(untrained):
    folder, recipe = untrained
    export_encoder(folder)
    images = folder / "images"
    images.mkdir()
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(images / f"{number}.png")
    recipe.data.dataset = str(images)
    whole = picture_of(folder, recipe)
    (images / "6.png").write_bytes(b"no image")
    assert len(picture_of(folder, recipe)) > 0.8 * len(whole)
    for path in images.iterdir():
        path.write_bytes(b"no image")
    assert picture_patches(folder, recipe) is None


def neighbours_of(folder, images) -> Path | None:
    encoder = load_encoder(folder / "encoder")
    parts = [load_source(str(images), split) for split in ("train", "test")]
    return picture_neighbours(folder, *((part, extract_embeddings(*encoder, part)) for part in parts), 2, 3)


def test_neighbours_are_the_images_that_were_embedded(untrained):
    folder, _ = untrained
    export_encoder(folder, processor=build_processor(16, 1.0))
    images = folder / "images"
    for split, number in (("train", 20), ("test", 6)):
        scans = load_source("digits", split).dataset
        for row in range(number):
            name = images / split / f"class {row % 2}" / f"{row:02d}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(scans[row]["image"]["bytes"])
    path = neighbours_of(folder, images)
    assert path == folder / "pictures" / "neighbours.png"
    drawn = path.read_bytes()
    # A broken image before all others has no embedding: row numbers and places of embeddings part ways.
    for split in ("train", "test"):
        (images / split / "class 0" / "--.png").write_bytes(b"no image")
    assert neighbours_of(folder, images).read_bytes() == drawn
    (images / "train" / "class 1" / "19.png").write_bytes((images / "test" / "class 1" / "01.png").read_bytes())
    assert neighbours_of(folder, images).read_bytes() != drawn


def test_a_stream_has_no_picture_of_neighbours(untrained):
    folder, _ = untrained
    embedded = LabelledEmbeddings(torch.eye(8), torch.arange(8))
    stream = load_source("digits", "test", streaming=True)
    assert picture_neighbours(folder, (stream, embedded), (stream, embedded)) is None


def test_an_encoder_of_one_size_is_drawn_at_it(untrained, caplog):
    pytest.importorskip("timm")
    folder, recipe = untrained
    arguments = {"img_size": 64}
    recipe.model.backbone_config = {
        "model_type": "timm_wrapper",
        "architecture": "mixer_s32_224",
        "model_args": arguments,
    }
    export_encoder(build_model(recipe.model).encoder, folder / "encoder")
    assert picture_of(folder, recipe)
    assert "left out" not in caplog.text
