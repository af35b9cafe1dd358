"""One page about several runs."""

import getpass
import json
from pathlib import Path

import pytest
import torch
import yaml
from test_report import Page

from lejepa_hf.cli import main
from lejepa_hf.hub.comparison import write_comparison
from lejepa_hf.hub.pictures.class_map import draw_embeddings

TOKEN = "hf_" + "abcdefgh" * 3


def make_run(folder: Path, accuracy: float, **settings: object) -> Path:
    folder.mkdir(parents=True)
    recipe = {"dataset": "digits", "backbone_config": {"model_type": "resnet"}, "seed": 0, "output_dir": str(folder)}
    text = yaml.safe_dump(recipe | {"hub_token": TOKEN} | settings)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    figures = {"eval_linear_top1": accuracy, "eval_linear_top1_ci95": 0.012, "eval_knn10_top1": accuracy - 0.1}
    facts = {"eval_split": "test", "train_seconds": 1234.0, "encoder_parameters": 311200}
    results = {"encoder": figures, "rows": {"LeJEPA encoder": figures}, "run": facts, "held_out": {}}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [{"step": s, "prediction_loss": 1 / s, "sigreg_loss": 2.0, "sigreg_over_null": 1.9} for s in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    versions = {"torch": "2.14.1", "transformers": f"from {Path.cwd()}/somewhere of {getpass.getuser()}"}
    (folder / "versions.json").write_text(json.dumps(versions), encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    first = make_run(tmp_path / "one" / "run", 0.9, sigreg_weight=0.02)
    second = make_run(tmp_path / "two" / "run", 0.877, sigreg_weight=0.05, pretrained_backbone=str(Path.home() / "x"))
    embeddings = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    path = draw_embeddings(first, embeddings, torch.arange(20) % 2, None)
    (second / "pictures").mkdir()
    for name in ("embeddings", "neighbours"):
        (second / "pictures" / f"{name}.png").write_bytes(path.read_bytes())
    return [first, second]


def test_what_differs_stands_side_by_side(runs, tmp_path):
    out = tmp_path / "page.html"
    assert write_comparison(runs, out) == out
    page = Page(out)
    assert "run and run (2)" in page.text
    assert "linear probe, % 90.0 ± 1.2 87.7 ± 1.2 k-NN, k = 10, % 80.0 77.7" in page.text
    assert "Settings that differ run run (2) sigreg_weight 0.02 0.05 pretrained_backbone – <local>" in page.text
    assert "seed" not in page.text and "The settings are the same" not in page.text
    assert page.elements.count("svg") == 2 and page.elements.count("img") == 3  # two maps, neighbours of one
    assert "script" not in page.elements and all(address.startswith("data:") for address in page.addresses)
    assert "Versions that differ" not in page.text


def test_nothing_private(runs, tmp_path):
    text = write_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    for private in (TOKEN, str(tmp_path), str(Path.home()) + "/", str(Path.cwd()), "output_dir", "hub_token"):
        assert private not in text


def test_unfinished_runs(tmp_path):
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("dataset: digits\n", encoding="utf-8")
        made.append(tmp_path / name)
    text = Page(write_comparison(made, tmp_path / "page.html")).text
    assert "The settings are the same" in text and "Figures" not in text


def test_command(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *map(str, runs)]) == 0
    assert capsys.readouterr().out == "report.html\n" and (tmp_path / "report.html").is_file()
    assert main(["report", *map(str, runs), "--out", "report.html"]) == 0  # one of its own is replaced
    Path("mine.html").write_text("<p>mine", encoding="utf-8")
    capsys.readouterr()
    for arguments, line in (
        ([*map(str, runs), "--out", "mine.html"], "`out` 'mine.html' exists and is not a report"),
        ([*map(str, runs), "--out", "."], "`out` '.' is a folder: name a file"),
        ([str(runs[0]), str(tmp_path)], "is not a run folder: no recipe.yaml there"),
        ([str(runs[0]), str(runs[0])], "`runs` must be at least two different ones"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert line in error and error.count("\n") == 1
    assert Path("mine.html").read_text(encoding="utf-8") == "<p>mine"
