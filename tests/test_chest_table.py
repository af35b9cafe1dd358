"""A table of chest X-rays as people have it, from training to figures by each of its columns."""

import json

import numpy as np
import pytest
from photo_tables import write_table
from PIL import Image

from lejepa_hf.cli import main


@pytest.fixture
def chest(tmp_path) -> str:
    """120 generated images of 30 patients; findings are bright halves, the age is a general brightness."""
    rng = np.random.default_rng(0)
    findings, ages, names = [], [], [f"{number:05}.png" for number in range(120)]
    for number, name in enumerate(names):
        age = int(rng.integers(20, 90))
        pixels = rng.integers(0, 40, (16, 16)) + age // 2
        found = [finding for finding in ("Edema", "Effusion") if rng.random() < 0.4]
        pixels[:8] += 90 * ("Edema" in found)
        pixels[:, :8] += 60 * ("Effusion" in found)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        findings.append("|".join(found) or ("No Finding" if number else None))
        ages.append(age)
    columns = {"Image Index": names, "Finding Labels": findings, "Patient ID": [n // 4 for n in range(120)]}
    return write_table(tmp_path / "chest.csv", **columns, Age=ages)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_from_training_to_figures(chest, tmp_path, tiny_resnet, capsys, caplog, streaming):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"backbone_config: {json.dumps({**tiny_resnet, 'num_channels': 1})}\nprojector_dims: [16, 8]\nnum_slices: 8\n"
        "global_crop_size: 16\nlocal_crop_size: 8\nnum_local_views: 2\nblur_kernel_size: 5\nuse_cpu: true\n"
        "per_device_train_batch_size: 16\nmax_steps: 2\neval_steps: 2\nlogging_steps: 1\nlearning_rate: 1e-3\n"
        f"dataset: {chest}\nlabel_column: Finding Labels\nlabel_kind: multi-label\neval_split: 30%\n"
        f"group_column: Patient ID\nstreaming: {str(streaming).lower()}\ndataloader_num_workers: 0\n"
    )
    caplog.set_level("INFO", "lejepa_hf")
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run")]) in (0, None)
    assert "the online probe and k-NN are left out while training" in caplog.text
    encoder = json.loads((tmp_path / "run" / "results.json").read_text())["encoder"]
    assert list(encoder)[::2] == ["eval_linear_map", "eval_linear_auroc"] and encoder["eval_linear_auroc"] > 0.8
    report, card = ((tmp_path / "run" / name).read_text() for name in ("report.html", "encoder/README.md"))
    assert "linear probe, AUROC" in report and "linear auroc" in card
    out = tmp_path / "age.json"
    held_out = ["--eval_split", "30%", "--group_column", "Patient ID", "--no_cache", "--out", str(out)]
    arguments = [str(tmp_path / "run"), "--dataset", chest, "--label_column", "Age", "--label_kind", "number"]
    assert main(["evaluate", *arguments, *held_out]) in (0, None)
    (record,) = json.loads(out.read_text())["encoders"].values()
    assert record["results"]["eval_ridge_r2"] > 0.3 and 0 < record["results"]["eval_ridge_mae"] < 20
    assert "ridge mae (in the label's unit)" in capsys.readouterr().out
