import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.evaluation.transfer import DATASETS, SHOTS, TransferTable
from lejepa_hf.hub.export import build_processor


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("encoders") / str(seed)
        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            "resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        )
        AutoModel.from_config(config).save_pretrained(folder)
        build_processor(16, crop_ratio=1.0).save_pretrained(folder)
        folders.append(str(folder))
    return folders


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Two folders of digits with the splits of a dataset."""
    root, paths = tmp_path_factory.mktemp("datasets"), []
    for name, first in (("early", 0), ("late", 200)):
        for split, number in (("train", 200), ("test", 60)):
            rows = load_source("digits", split).dataset.select(range(first, first + number))
            for place, row in enumerate(rows):
                folder = root / name / split / str(row["label"])
                folder.mkdir(parents=True, exist_ok=True)
                decode_image(row["image"], 1).save(folder / f"{place}.png")
        paths.append(str(root / name))
    return paths


def test_the_papers_table():
    assert len(DATASETS) == 8 and SHOTS == (1, 10, "all")


@pytest.mark.slow
def test_figures_are_those_of_each_dataset(encoders, datasets, tmp_path):
    table = TransferTable(tmp_path, encoders, datasets, [1, 2])
    assert table.run() == []
    header, _, *rows = table.table().splitlines()
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["shots", "encoder", *datasets, "average"]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [row[:2] for row in cells] == [[shots, encoder] for shots in ("1", "2") for encoder in encoders]
    found = [evaluate_encoder(encoders[1], dataset, ["few-shot"], shots=[1, 2]) for dataset in datasets]
    for row, name in ((cells[1], "eval_1shot_top1"), (cells[3], "eval_2shot_top1")):
        assert [cell.split(" ± ")[0] for cell in row[2:4]] == [f"{100 * of[name]:.1f}" for of in found]
        assert row[4] == f"{100 * sum(of[name] for of in found) / 2:.1f}"
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table.table() + "\n"
    assert json.loads((tmp_path / "late.json").read_text(encoding="utf-8"))["differences"][encoders[1]]


@pytest.mark.slow
def test_all_shots_are_the_linear_probe(encoders, datasets, tmp_path):
    table = TransferTable(tmp_path, encoders[:1], datasets[:1], ["all"])
    assert table.run() == []
    linear = evaluate_encoder(encoders[0], datasets[0], ["linear"])["eval_linear_top1"]
    assert table.table().splitlines()[2].startswith(f"| all   | {encoders[0]} | {100 * linear:.1f} ± ")


@pytest.mark.slow
def test_goes_on_where_it_stopped(encoders, datasets, tmp_path):
    TransferTable(tmp_path, encoders[:1], datasets[:1], [1]).run()
    before = (tmp_path / "early.json").read_bytes()
    (tmp_path / "late.json").write_text("{", encoding="utf-8")  # written halfway
    table = TransferTable(tmp_path, encoders[:1], datasets, [1])
    assert table.table().splitlines()[2].endswith("| –       |")
    assert table.run() == []
    assert (tmp_path / "early.json").read_bytes() == before
    assert "–" not in table.table()
    TransferTable(tmp_path, encoders, datasets[:1], [1]).run()  # another encoder: not in the record
    assert (tmp_path / "early.json").read_bytes() != before


def test_a_dataset_that_fails_does_not_stop_the_others(encoders, datasets, tmp_path):
    table = TransferTable(tmp_path, encoders[:1], ["/no/such/folder", datasets[0]], [1])
    (failed,) = table.run()
    assert failed.startswith("/no/such/folder: `dataset` '/no/such/folder'")
    cells = table.table().splitlines()[2].split("|")
    assert cells[3].strip() == "–" == cells[5].strip() and " ± " in cells[4]


def test_refuses_before_any_work(encoders, datasets, tmp_path):
    with pytest.raises(ValueError, match="`shots` 0 must be"):
        TransferTable(tmp_path, encoders, datasets, [0]).run()
    with pytest.raises(ValueError, match="`datasets` would write two records to one file"):
        TransferTable(tmp_path, encoders, [datasets[0], "other/early"])
    with pytest.raises(ValueError, match="`dataset` 'food-101' is not a preset.* Did you mean 'food101'"):
        TransferTable(tmp_path, encoders, [datasets[0], "food-101"])
    assert not list(tmp_path.iterdir())
