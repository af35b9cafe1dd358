import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from lejepa_hf.cli import main
from lejepa_hf.data.held_out_share import fold_of_rows
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.folds import make_folds
from lejepa_hf.hub.export import build_processor


@pytest.fixture(scope="module")
def digits():
    source = load_source("digits", "test")
    return replace(source, dataset=source.dataset.select(range(120)))


def test_each_image_is_measured_once(digits, tiny_resnet):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).eval(), build_processor(16, crop_ratio=1.0)
    folds = make_folds(digits, 4, ["knn"])
    sizes = Counter(folds.of_rows.tolist())
    assert sorted(sizes) == [0, 1, 2, 3] and max(sizes.values()) - min(sizes.values()) <= 2
    labels = np.array(digits.dataset["label"])
    for label in range(10):
        of_class = Counter(folds.of_rows[labels == label].tolist())
        assert len(of_class) == 4 and max(of_class.values()) - min(of_class.values()) <= 3
    results = folds.measure(encoder)
    assert 0.2 < results["eval_knn_top1"] < 1 and results["eval_knn_top1_ci95"] > 0 < results["eval_knn_top1_std"]
    assert (make_folds(digits, 4, ["knn"]).of_rows == folds.of_rows).all()


def test_groups_are_in_one_fold(tmp_path):
    names = [tmp_path / f"plot {plot}" / kind / f"{n}.png" for plot in range(12) for kind in "ab" for n in range(3)]
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.touch()
    source = load_source(tmp_path)
    folds = fold_of_rows(source, 3, "1")
    plots = [row["image"]["path"].split("/")[-3] for row in source.dataset]
    assert len(set(zip(plots, folds.tolist(), strict=True))) == 12 and set(Counter(folds.tolist()).values()) == {24}


def test_what_cannot_be_folded(digits):
    for number, message in ((1, "`folds` must be at least 2, got 1"), (101, "`folds` must be at most 100, got 101")):
        with pytest.raises(ValueError, match=message):
            make_folds(digits, number, ["knn"])
    with pytest.raises(ValueError, match="`folds` 5 are more than 'digits' can fill: it has 3 images"):
        make_folds(replace(digits, dataset=digits.dataset.select(range(3))), 5, ["knn"])
    with pytest.raises(ValueError, match="`folds` needs the images of 'digits' by their numbers"):
        make_folds(load_source("digits", streaming=True), 5, ["knn"])
    with pytest.raises(ValueError, match="`folds`: the protocol fine-tune needs more than embeddings"):
        make_folds(digits, 5, ["fine-tune"])
    fewest = min(Counter(digits.dataset["label"]).values())
    with pytest.raises(ValueError, match=f"`shots` {fewest} needs more images than class"):
        make_folds(digits, 3, ["few-shot"], settings={"shots": [fewest]})
    images = digits.dataset.select(range(41)).remove_columns("label").add_column("label", [0] * 40 + [1])
    with pytest.raises(ValueError, match=r"all images of 1 classes of 'digits' \(1\) are in one fold"):
        make_folds(replace(digits, dataset=images), 2, ["knn"])


def test_command(tmp_path, tiny_resnet, capsys):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(**tiny_resnet))
    encoder.save_pretrained(tmp_path / "encoder")
    build_processor(16, crop_ratio=1.0).save_pretrained(tmp_path / "encoder")
    arguments = ["evaluate", str(tmp_path / "encoder"), "--dataset", "digits", "--train_split", "test", "--folds", "3"]
    arguments += ["--protocol", "knn", "--no_cache"]
    assert main([*arguments, "--out", str(tmp_path / "folds.json")]) == 0
    assert "digits: 3 folds of 150 images; ±: 95 % interval of the mean over folds" in capsys.readouterr().out
    record = json.loads((tmp_path / "folds.json").read_text(encoding="utf-8"))
    assert record["images_of_folds"] == [150] * 3
    assert record["encoders"][str(tmp_path / "encoder")]["results"]["eval_knn_top1_ci95"] > 0
    assert main([*arguments, "--eval_split", "test"]) == 2
    assert "`--folds` 3 measures on the images of `--train_split`: leave `--eval_split` out" in capsys.readouterr().err
