"""Runs with images of other than three channels, from recipe to the exported encoder."""

import json

import numpy as np
import pytest
import torch
import yaml
from datasets import Array3D, ClassLabel, Dataset, Features
from transformers import AutoImageProcessor, AutoModel

from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.evaluation.pixel_values import to_pixel_values
from lejepa_hf.runs.pretraining import main

SMALL = {
    "num_local_views": 1, "global_crop_size": 16, "local_crop_size": 8, "blur_kernel_size": 3, "eval_crop_ratio": 1.0,
    "projector_dims": [16, 8], "per_device_train_batch_size": 16, "max_steps": 3, "save_steps": 3, "logging_steps": 1,
    "monitor_images": 16, "num_slices": 64, "dataloader_num_workers": 0, "use_cpu": True, "eval_protocols": ["knn"],
}  # fmt: skip


def finished_run(tmp_path, **recipe):
    file, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump({**SMALL, **recipe, "output_dir": str(folder)}))
    assert main([str(file)]) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert (folder / "pictures" / "gaussianity.png").exists()
    assert not any(row.get("broken_images") for row in rows)
    return folder


def exported(folder, channels: int):
    encoder = AutoModel.from_pretrained(folder / "encoder").eval()
    processor = AutoImageProcessor.from_pretrained(folder / "encoder")
    assert encoder.config.num_channels == channels == len(processor.image_mean) and not processor.do_convert_rgb
    return encoder, processor


@pytest.fixture
def scans(tmp_path) -> str:
    """A folder of the first digits: all of them would only take longer."""
    dataset = load_source("digits").dataset.select(range(100))
    for number, row in enumerate(dataset):
        file = tmp_path / "scans" / ("train" if number < 64 else "test") / str(row["label"]) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"]["bytes"])
    return str(tmp_path / "scans")


@pytest.mark.slow
def test_greyscale(tmp_path, scans, tiny_resnet):
    backbone = {**tiny_resnet, "num_channels": 1}
    folder = finished_run(
        tmp_path, dataset=scans, eval_split="test", backbone_config=backbone, image_mean=[0.3], image_std=[0.35]
    )
    results = json.loads((folder / "results.json").read_text())
    assert {"LeJEPA encoder", "same encoder, untrained", "raw pixels"} == results["rows"].keys()
    assert results["rows"]["raw pixels"]["eval_knn_top1"] > 0.6
    assert "eval_knn_top1" in (folder / "metrics.jsonl").read_text()  # of held-out images while training
    encoder, processor = exported(folder, 1)
    scan = decode_image(load_source("digits").dataset[0]["image"], 1)
    with torch.no_grad():
        embedding = encoder(**processor(scan, return_tensors="pt")).pooler_output  # nothing of this package in it
    assert embedding.shape == (1, 16, 1, 1) and embedding.isfinite().all()


@pytest.fixture
def tiles(tmp_path) -> dict[str, str]:
    """Reflectances below 10000 of two classes that differ in one channel, as `datasets` writes them."""
    rng = np.random.default_rng(0)
    features = Features({"tile": Array3D((20, 20, 5), "uint16"), "kind": ClassLabel(names=["wood", "lake"])})
    files = {}
    for name, number in (("train", 64), ("test", 20)):
        values = rng.integers(0, 4000, (number, 20, 20, 5), dtype=np.uint16)
        values[1::2, :, :, 4] += 6000
        dataset = Dataset.from_dict({"tile": list(values), "kind": [i % 2 for i in range(number)]}, features=features)
        files[name] = str(tmp_path / f"{name}.parquet")
        dataset.to_parquet(files[name], batch_size=16)
    return files


@pytest.mark.slow
def test_five_channels_of_a_stream(tmp_path, tiles, tiny_vit):
    folder = finished_run(
        tmp_path, dataset=tiles["train"], streaming=True, shuffle_buffer_size=20, pixel_range=[0, 10000],
        backbone_config={**tiny_vit, "num_channels": 5}, image_mean=[0.2] * 4 + [0.5], image_std=[0.12] * 4 + [0.3],
    )  # fmt: skip
    encoder, processor = exported(folder, 5)
    assert processor.pixel_range == [0.0, 10000.0]
    source = load_source(tiles["test"])
    images = [decode_image(row["tile"], 5, processor.pixel_range) for row in source.dataset]
    with torch.no_grad():
        assert encoder(to_pixel_values(images, processor, 5)).pooler_output.shape == (20, 32)
    # From the encoder's folder alone: its processor knows the range.
    results = evaluate_encoder(folder / "encoder", (load_source(tiles["train"]), source), ["knn"])
    assert results["eval_knn_top1"] > 0.9
