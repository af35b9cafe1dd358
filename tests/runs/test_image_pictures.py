from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lejepa_hf import export_encoder
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings, extract_embeddings
from lejepa_hf.evaluation.evaluate_encoder import load_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.runs.image_pictures import picture_neighbours, picture_patches
from lejepa_hf.runs.initial_model import build_config, build_model


def picture_of(folder, recipe) -> bytes:
    path = picture_patches(folder, recipe)
    assert path == folder / "pictures" / "pca_maps.png"
    return path.read_bytes()


def test_patches_of_training_images_and_of_held_out_ones(untrained):
    folder, recipe = untrained
    export_encoder(folder)
    first = picture_of(folder, recipe)
    assert picture_of(folder, recipe) == first
    recipe = replace(recipe, data=replace(recipe.data, eval_split="test"))
    assert picture_of(folder, recipe) != first


def test_broken_images_are_passed_over_in_the_picture(untrained):
    folder, recipe = untrained
    export_encoder(folder)
    images = folder / "images"
    images.mkdir()
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(images / f"{number}.png")
    recipe = replace(recipe, data=replace(recipe.data, dataset=str(images)))
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


@pytest.mark.slow
def test_an_encoder_of_one_size_is_drawn_at_it(untrained, caplog):
    pytest.importorskip("timm")
    folder, recipe = untrained
    arguments = {"img_size": 64}
    backbone = {"model_type": "timm_wrapper", "architecture": "mixer_s32_224", "model_args": arguments}
    model = replace(recipe.model, backbone_config=backbone)
    export_encoder(build_model(build_config(model)).encoder, folder / "encoder")
    assert picture_of(folder, recipe)
    assert "left out" not in caplog.text
