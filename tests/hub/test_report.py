"""One page of a run: what it says, what it must not say, and how a browser takes it."""

import base64
import getpass
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from browser import chromium

from lejepa_hf.cli import main
from lejepa_hf.hub.pictures.class_map import draw_embeddings
from lejepa_hf.hub.report import write_report

TOKEN = "hf_" + "abcdefgh" * 3
RECIPE = {"backbone_config": {"model_type": "resnet"}, "sigreg_weight": 0.02, "dataset": "digits"}
RECIPE |= {"eval_split": "test", "per_device_train_batch_size": 128}


def result(accuracy: float) -> dict[str, float]:
    return {"eval_linear_top1": accuracy, "eval_linear_top1_ci95": 0.012, "eval_knn_top1": accuracy - 0.1}


@pytest.fixture
def finished(tmp_path) -> Path:
    run = tmp_path / "runs" / "mine"
    (run / "encoder").mkdir(parents=True)
    (run / "encoder" / "config.json").write_text("{}", encoding="utf-8")
    recipe = RECIPE | {"output_dir": str(run), "hub_token": TOKEN, "pretrained_backbone": str(Path.home() / "warm")}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    rows = {"LeJEPA <encoder>": result(0.9876), "same encoder, untrained": result(0.5), "raw pixels": result(0.7)}
    facts = {"train_split": "train", "eval_split": "test", "num_train_images": 1347, "num_eval_images": 450}
    facts |= {"steps": 20, "global_batch": 128, "epochs": 1.9, "device": "1 CPU threads", "encoder_parameters": 311200}
    facts |= {"energy_source": "the CPUs", "train_seconds": 18.3, "energy_kwh": 0.0123}
    results = {"encoder": rows["LeJEPA <encoder>"], "rows": rows, "table": "", "run": facts}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    metrics = [{"step": s, "prediction_loss": 1 / s, "sigreg_loss": 2.0, "sigreg_over_null": 1.9} for s in (10, 20)]
    held_out = {"step": 20, "eval_loss": 0.123, "eval_prediction_loss": 0.1, "eval_sigreg_loss": 2.5}
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*metrics, held_out]), encoding="utf-8"
    )
    statistics = {"num_images": 512, "effective_rank": 15.31, "top_eigenvalue_share": 0.25, "mean_norm": 0.1}
    statistics |= {"sigreg_view0": 3.06, "sigreg_null_mean": 1.06, "sigreg_null_std": 0.1, "sigreg_z": 20.0}
    (run / "statistics.json").write_text(json.dumps(statistics | {"worst_slice": 9.0}), encoding="utf-8")
    versions = {"torch": "2.14.1", "transformers": f"from {Path.cwd()}/somewhere of {getpass.getuser()}"}
    (run / "versions.json").write_text(json.dumps(versions), encoding="utf-8")
    embeddings = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    draw_embeddings(run, embeddings, torch.arange(20) % 2, None)
    return run


class Page(HTMLParser):
    """Text of a page, its addresses, its elements."""

    def __init__(self, path: Path):
        super().__init__()
        self.words, self.addresses, self.elements = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset", "data")]

    def handle_data(self, data):
        self.words.append(data)


def test_figures_are_those_of_the_run(finished):
    path = write_report(finished)
    assert path == finished / "report.html"
    text = Page(path).text
    assert "98.8 % linear probe" in text and "88.8 % k-NN, k = 20" in text
    assert "linear probe 98.8 ± 1.2 50.0 ± 1.2 70.0 ± 1.2 k-NN, k = 20 88.8 40.0 60.0" in text
    assert "LeJEPA <encoder>" in text  # escaped, not taken for an element
    assert "20 steps of 128 images (1.9 passes over them) in 18 s on one CPU thread; 311,200 parameters" in text
    assert "0.0123 kWh of the CPUs" in text
    assert "20 0.1230 0.1000 – – –" in text  # a held-out row without rank and labels
    assert "effective rank 15.3" in text
    assert "sigreg_weight: 0.02" in text and "torch 2.14.1" in text
    assert "Not on this page" not in text


def test_accuracies_of_held_out_images_during_training(finished):
    row = {"eval_loss": 0.1, "eval_prediction_loss": 0.1, "eval_sigreg_loss": 2.5, "eval_effective_rank": 9.0}
    rows = [{"step": 30, **row, "eval_knn_top1": 0.6}]  # before the online probe has learned
    rows += [{"step": 40, **row, "eval_knn_top1": 0.75, "eval_online_probe_top1": 0.7123}]
    with (finished / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    text = Page(write_report(finished)).text
    assert "effective rank k-NN, % right online probe, % right" in text
    assert "trained on augmented training views while" in text
    assert "30 0.1000 0.1000 9.0 60.0 – 40 0.1000 0.1000 9.0 75.0 71.2" in text


def test_one_figure_of_sigreg(finished):
    text = Page(write_report(finished)).text.partition("without labels.")[2]
    assert "1.90 SIGReg, 1 for a Gaussian" in text and "SIGReg is 1.90 in the last logged training batches" in text
    assert "3.06" not in text and "2.00" not in text and "2.5" not in text  # of views, of the loss, of held-out images


def test_neighbours_and_map_come_first(finished):
    picture = (finished / "pictures" / "embeddings.png").read_bytes()
    for name in ("neighbours", "pca_maps"):
        (finished / "pictures" / f"{name}.png").write_bytes(picture)
    text = write_report(finished).read_text(encoding="utf-8")
    order = ['id="alike"', "training images nearest to them", "Held-out images by t-SNE", 'id="results"', "<svg"]
    places = [text.index(part) for part in [*order, "patch features, three principal", 'id="recipe"']]
    assert places == sorted(places)


def test_curves_take_the_colours_of_the_page(finished):
    page = Page(write_report(finished))
    assert page.elements.count("svg") == 2  # both losses; nothing else was logged
    assert "SIGReg, 1 for a Gaussian" in page.text and "held-out images" in page.text
    row = {"step": 30, "effective_rank": 9.0, "online_probe_top1": 0.7, "prediction_loss": 0.1, "sigreg_loss": 1.0}
    held_out = {"step": 30, "eval_knn_top1": 0.75, "eval_loss": 0.1, "eval_prediction_loss": 1, "eval_sigreg_loss": 1}
    with (finished / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n" + json.dumps(held_out) + "\n")
    page = Page(write_report(finished))
    assert page.elements.count("svg") == 5
    for title in ("Effective rank of the embeddings", "Online probe, % right", "k-NN, % right"):
        assert title in page.text


def test_it_needs_nothing_else(finished):
    page = Page(write_report(finished))
    assert page.elements.count("img") == 1 and "script" not in page.elements
    assert all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", (finished / "report.html").read_text(encoding="utf-8"))
    pictures = [base64.b64decode(one.split(",")[1]) for one in page.addresses if one.startswith("data:image")]
    folder = finished / "pictures"
    assert pictures == [path.read_bytes() for path in (folder / "dark" / "embeddings.png", folder / "embeddings.png")]


def test_pictures_are_dark_on_dark_pages_and_as_wide_as_a_phone(finished):
    text = write_report(finished).read_text(encoding="utf-8")
    assert '<source media="(prefers-color-scheme: dark)" srcset="data:image/png' in text
    assert '<img class="light"' not in text
    (finished / "pictures" / "dark" / "embeddings.png").unlink()  # drawn by an earlier version
    text = write_report(finished).read_text(encoding="utf-8")
    assert "<source" not in text and '<img class="light" src="data:image/png' in text
    rules = re.findall(r"figure (?:img|svg) {([^}]*)}", text)
    assert "max-width: 100%" in rules[0] and "width: 100%" in rules[1]


def test_nothing_private(finished):
    text = write_report(finished).read_text(encoding="utf-8")
    for private in (TOKEN, str(finished), str(Path.home()) + "/", str(Path.cwd()), "output_dir:", "hub_token"):
        assert private not in text
    assert "pretrained_backbone: &lt;local&gt;" in text


def test_settings_are_text_not_elements(finished):
    recipe = RECIPE | {"label_column": "<script>alert(1)</script>"}
    (finished / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    page = Page(write_report(finished))
    assert "script" not in page.elements and "<script>alert(1)</script>" in page.text


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"eval_split": None}), encoding="utf-8")
    text = Page(write_report(tmp_path)).text
    for missing in ("Training curves: nothing", "this run is not finished", "names no eval_split"):
        assert missing in text
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 10, "prediction_loss": 0.5, "sigreg_loss": 2.0}\n', encoding="utf-8"
    )
    page = Page(write_report(tmp_path))
    assert "Training curves" not in page.text and "Last logged: step 10, prediction loss 0.5000" in page.text
    assert page.elements.count("svg") == 1 and "SIGReg" not in page.text.partition("Recipe")[0]


def test_older_results_have_no_intervals(finished):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    for row in results["rows"].values():
        del row["eval_linear_top1_ci95"]
    del results["run"]["energy_kwh"]
    (finished / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert "linear probe 98.8 50.0 70.0" in Page(write_report(finished)).text


def test_command(finished, tmp_path, capsys):
    assert main(["report", str(finished)]) == 0
    assert capsys.readouterr().out == f"{finished / 'report.html'}\n"
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run folder: no recipe.yaml there" in capsys.readouterr().err
    out = tmp_path / "page.html"
    for _ in range(2):
        assert main(["report", str(finished), "--out", str(out)]) == 0
    out.write_text("<!DOCTYPE html><p>mine", encoding="utf-8")
    assert main(["report", str(finished), "--out", str(out)]) == 2
    assert "exists and is not a report" in capsys.readouterr().err and "mine" in out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_in_a_browser(finished, tmp_path):
    path = write_report(finished)
    with chromium(tmp_path / "profile") as browser:
        browser.get(path.as_uri())
        images = browser.find_elements("css selector", "img")
        assert len(images) == 1
        assert all(image.get_property("complete") and image.get_property("naturalWidth") > 0 for image in images)
        cells = browser.find_elements("css selector", "#results tbody tr:first-child td")
        assert [cell.text for cell in cells] == ["98.8 ± 1.2", "50.0 ± 1.2", "70.0 ± 1.2"]
        for width in (390, 1280):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == 390}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            # What is wider than the page scrolls inside of it.
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert not browser.get_log("browser")
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        asked = [url for url in sent if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))]
        assert asked == [path.as_uri()]


def test_what_is_not_held_out_or_not_measured_is_named(finished):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    del results["rows"]["raw pixels"]
    results["run"]["shared_images"] = {"number": 2, "compared": 450}
    (finished / "results.json").write_text(json.dumps(results), encoding="utf-8")
    row = {"step": 20, "eval_loss": 1.0, "eval_prediction_loss": 0.1, "eval_sigreg_loss": 2.5, "eval_shared_images": 7}
    with (finished / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    text = Page(write_report(finished)).text
    assert "2 of 450 held-out images are also training images, byte for byte: the figures overstate" in text
    assert "7 of the compared images are also training images, byte for byte: these figures are not held out" in text
    assert "The baseline 'raw pixels': the run's own command with --resume measures it." in text
