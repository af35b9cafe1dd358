import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from jinja2 import UndefinedError

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.cli import main
from lejepa_hf.hub import model_card
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.model_card import rewrite_model_card, write_model_card
from lejepa_hf.hub.public_files import card_for_repository
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.system.run_folder import RunFolder

METRICS = {"eval_linear_top1": 0.912345, "eval_knn_top1": 0.875, "eval_5shot_top1": 0.5, "eval_5shot_top1_std": 0.02}
TABLE = "| frozen, held-out top-1 in % | knn top1 |\n| --- | --- |\n| LeJEPA encoder | 87.5 |"

CARD = r"""---
datasets:
- ylecun/mnist
library_name: transformers
pipeline_tag: image-feature-extraction
tags:
- lejepa
- self-supervised-learning
- vision
model-index:
- name: lejepa-resnet-mnist
(?:.*\n)+---

# lejepa-resnet-mnist

An image encoder of class `ResNetModel`, pretrained without labels with
\[LeJEPA\]\(https://arxiv\.org/abs/2511\.08544\): (?:.*\n)+
## Use

```python
(?:.*\n)+embedding = outputs\.pooler_output\.flatten\(1\)
```

Plain transformers; no other package and no remote code is needed\.

## Data

Pretrained without labels on 5,000 images of \[ylecun/mnist\]\(https://\S+/datasets/ylecun/mnist\), split `train`\.
Its licence is not stated here: see its page\.

## Results

Measured on ylecun/mnist, split `test` \(1,000 images\), which pretraining did not use; probes were
fitted on split `train` \(5,000 images\)\.

\| frozen, held-out top-1 in % \| knn top1 \|
\| --- \| --- \|
\| LeJEPA encoder \| 87\.5 \|

±: 95 % intervals.*\n(?:.+\n)+
## Training

300 steps of 64 images \(3\.8 passes over them\) in 12 s on
8 processes, the first on one CPU thread; 1,234,567 parameters in the encoder\.
At the end: prediction loss 0\.1250, SIGReg 1\.500 \(1\.05 for a perfect Gaussian\)\.
Projections of 512 training images, with batch norm as in training: effective rank 7\.5, SIGReg 2\.25 to 3\.50 over
2 views\. The same number of Gaussian samples gives 1\.06 ± 0\.12; other distributions give more with more images\.

## Pictures

!\[Both parts of the loss while training\]\(\.\./pictures/losses\.png\)

!\[Held-out images .*\]\(\.\./pictures/embeddings\.png\)

## Recipe

Every setting, resolved:

```yaml
(?:.*\n)+```

## Reproduce

```bash
accelerate launch --num_processes 8 -m lejepa_hf train recipe\.yaml --output_dir runs/again
```

Here `recipe\.yaml` is the recipe above and lejepa-hf has the version below\.

## Versions

- python \d+\.\d+\.\d+
- torch \S+
(?:- \S+ \S+\n)+
## Limits

(?:.+\n)+
## Citation

```bibtex
(?:.*\n)+```\n?"""


def write_run(folder: Path, dataset: str, *arguments: str):
    """The files that train.py leaves in a run folder."""
    (folder / "given.yaml").write_text(
        f"dataset: {dataset}\nbackbone_config: {{model_type: resnet}}\neval_split: test\nmax_steps: 300\n"
        f"output_dir: {folder}\nrun_name: {folder}/name\nuse_cpu: true\n",
        encoding="utf-8",
    )
    recipe = parse_recipe(folder / "given.yaml", ["--hub_token", "hf_secret", *arguments])
    RunFolder(folder).write_start(recipe.resolved())
    facts = {"train_split": "train", "eval_split": "test", "num_train_images": 5000, "num_eval_images": 1000}
    facts |= {"steps": 300, "global_batch": 64, "epochs": 3.84, "train_seconds": 12.3, "device": "1 CPU threads"}
    facts |= {"encoder_parameters": 1234567}
    statistics = {"num_images": 512, "effective_rank": 7.5, "sigreg_view0": 2.25, "sigreg_view1": 3.5}
    statistics |= {"sigreg_null_mean": 1.06, "sigreg_null_std": 0.12}
    (folder / "statistics.json").write_text(json.dumps(statistics), encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    for name in ("losses.png", "embeddings.png"):
        (folder / "pictures" / name).write_bytes(b"a picture")
    results = {"encoder": METRICS, "rows": {"LeJEPA encoder": METRICS}, "table": TABLE, "run": facts}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [{"step": step, "prediction_loss": 12.5 / step, "sigreg_loss": 150 / step} for step in (10, 100)]
    lines = [json.dumps(row) for row in [*rows, {"step": 300, "train_runtime": 12.3}]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def export(backbone: dict, folder: Path, pooling: str = "auto", crop_size: int = 16) -> Path:
    torch.manual_seed(0)
    config = LeJEPAConfig(backbone_config=backbone, pooling=pooling, projector_dims=[8])
    return export_encoder(LeJEPAForPreTraining(config), folder, build_processor(crop_size))


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def encoder(tiny_resnet, run) -> Path:
    return export(tiny_resnet, run / "encoder")


def test_whole_card(encoder, run):
    write_run(run, "ylecun/mnist")
    path = write_model_card(encoder, run)
    assert path == encoder / "README.md"
    text = path.read_text(encoding="utf-8")
    assert re.fullmatch(CARD, text)
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings == [
        "Use", "Data", "Results", "Training", "Pictures", "Recipe", "Reproduce", "Versions", "Limits", "Citation",
    ]  # fmt: skip
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    recipe, whole = yaml.safe_load(recipe), yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe == {key: value for key, value in whole.items() if key not in ("output_dir", "run_name")}


def test_is_a_card_for_the_hub(encoder, run):
    write_run(run, "ylecun/mnist")
    data = ModelCard.load(write_model_card(encoder, run)).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-feature-extraction")
    assert data.datasets == ["ylecun/mnist"]
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found == {"eval_linear_top1": 0.9123, "eval_knn_top1": 0.875, "eval_5shot_top1": 0.5}
    for result in data.eval_results:
        assert (result.dataset_type, result.dataset_split, result.metric_type) == ("ylecun/mnist", "test", "accuracy")


def test_an_average_says_so_and_has_its_own_row(encoder, run):
    write_run(run, "ylecun/mnist")
    given = json.loads((run / "results.json").read_text(encoding="utf-8"))
    given["table"] += "\n| averaged encoder | 90.0 |"
    (run / "results.json").write_text(
        json.dumps(given | {"averaged_encoder": {"eval_knn_top1": 0.9}}), encoding="utf-8"
    )
    card = ModelCard.load(write_model_card(encoder, run, ema_decay=0.999))
    assert "exponential moving average, decay 0.999." in card.text and 'the column "averaged encoder"' in card.text
    assert [(result.metric_name, result.metric_value) for result in card.data.eval_results] == [("eval_knn_top1", 0.9)]
    raw = ModelCard.load(write_model_card(encoder, run))
    assert len(raw.data.eval_results) == 3 and "moving average" not in raw.text
    write_run(run, "ylecun/mnist")  # results from before there was an average
    card = ModelCard.load(write_model_card(encoder, run, ema_decay=0.999))
    assert card.data.eval_results is None and "the row" not in card.text
    assert "## Results" not in card.text and "These weights have not been evaluated." in card.text


def test_the_online_probe_on_held_out_images(encoder, run):
    write_run(run, "ylecun/mnist")
    assert "online probe" not in write_model_card(encoder, run).read_text(encoding="utf-8")
    row = {"step": 300, "eval_loss": 0.1, "eval_knn_top1": 0.75, "eval_online_probe_top1": 0.7123}
    for values in ({"step": 150, "eval_online_probe_top1": 0.5}, {}):
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | values) + "\n")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert re.search(
        r"^At step 300, an online probe, .*, classified\n71\.2 % of held-out images correctly; k-NN 75\.0 %\.$",
        text, re.MULTILINE,
    )  # fmt: skip
    assert "eval_online_probe_top1" not in text  # results are of the frozen encoder
    assert "online probe" not in write_model_card(encoder, run, ema_decay=0.9).read_text(encoding="utf-8")
    assert "online probe" not in write_model_card(encoder, run, is_final=False).read_text(encoding="utf-8")
    record = json.loads((run / "run.json").read_text(encoding="utf-8")) | {"arguments": {"monitor_images": 1024}}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({name: row[name] for name in row if "knn" not in name} | {"eval_shared_images": 4}) + "\n"
        )
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert "71.2 % of up to 1,024 held-out images correctly.\n" in text
    assert "Of the held-out images that were compared, 4 are also training images.\n" in text


@pytest.mark.parametrize("arguments", [(), ("--deepspeed", "/home/someone/zero.json")])
def test_says_nothing_about_the_machine(encoder, run, arguments):
    images = run / "images"
    images.mkdir()
    write_run(run, str(images))
    if arguments:
        text = (run / "recipe.yaml").read_text(encoding="utf-8")
        (run / "recipe.yaml").write_text(f"{text}deepspeed: {arguments[1]}\n", encoding="utf-8")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    for private in (str(run), str(images), "images/", "/home", "/tmp", "hf_secret", "hub_token"):
        assert private not in text
    assert "dataset: <local>" in text
    assert "Measured on local images, split `test`" in text
    assert "images of local images, split `train`.\nTheir licence is not stated here." in text
    assert "\n# lejepa-resnet\n" in text
    assert not ModelCard(text).data.datasets


@pytest.mark.parametrize("start", ["facebook/dinov2-small", "LOCAL"])
def test_warm_start_is_told(encoder, run, start):
    write_run(run, "digits")
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    local = start == "LOCAL"
    start = str(encoder) if local else start
    lines = [line for line in recipe.splitlines() if not line.startswith("pretrained_backbone")]
    (run / "recipe.yaml").write_text("\n".join([*lines, f"pretrained_backbone: {start}"]), encoding="utf-8")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert f"The weights started from {'a local checkpoint' if local else start}." in text
    assert ModelCard(text).data.base_model == (None if local else start)
    assert str(encoder) not in text


@pytest.mark.parametrize(
    ("start", "told", "base"),
    [
        ("me/earlier", "me/earlier", "me/earlier"),
        ("me/earlier@checkpoint-400", "me/earlier at revision checkpoint-400", "me/earlier"),
        ("LOCAL", "a local checkpoint", None),
    ],
)
def test_a_continued_run_is_told(encoder, run, start, told, base):
    write_run(run, "digits")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")) | {
        "continue_from": start.replace("LOCAL", str(encoder))
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert f"\nTraining went on from {told}, backbone and projector, with a new optimizer.\n" in text
    assert "The weights started from" not in text and str(encoder) not in text
    assert ModelCard(text).data.base_model == base


@pytest.mark.parametrize(
    ("missing", "gone", "kept"),
    [
        ("results.json", ["## Results", "steps of", "model-index"], ["At the end", "## Recipe", "## Versions"]),
        ("metrics.jsonl", ["At the end"], ["300 steps of", "## Results"]),
        ("recipe.yaml", ["## Recipe", "ylecun"], ["## Results", "## Versions"]),
        ("versions.json", ["## Versions"], ["## Recipe"]),
    ],
)
def test_what_is_missing_is_left_out(encoder, run, missing, gone, kept):
    write_run(run, "ylecun/mnist")
    (run / missing).unlink()
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert not [phrase for phrase in gone if phrase in text]
    assert not [phrase for phrase in kept if phrase not in text]
    assert "None" not in text
    assert ModelCard(text).data.library_name == "transformers"


def test_nothing_but_the_encoder(encoder, run):
    for text in (
        (encoder / "README.md").read_text(encoding="utf-8"),
        write_model_card(encoder, run).read_text(encoding="utf-8"),
    ):
        headings = re.findall(r"^## (.*)", text, re.MULTILINE)
        assert headings == ["Use", "Limits", "Citation"]
        assert "None" not in text
        assert "\n\n\n" not in text


def test_facts_of_the_last_step_are_left_out_for_other_weights(encoder, run):
    write_run(run, "ylecun/mnist")
    card = write_model_card(encoder, run, is_final=False)
    text = card.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings == ["Use", "Data", "Recipe", "Reproduce", "Versions", "Limits", "Citation"]
    assert ModelCard.load(card).data.eval_results is None


def test_a_variable_that_nobody_fills_is_an_error(encoder, tmp_path, monkeypatch):
    template = tmp_path / "template.md"
    template.write_text(
        model_card._TEMPLATE.read_text(encoding="utf-8") + "{{ licence_of_the_images }}\n", encoding="utf-8"
    )
    monkeypatch.setattr(model_card, "_TEMPLATE", template)
    with pytest.raises(UndefinedError, match="licence_of_the_images"):
        write_model_card(encoder)


def test_sources_of_a_mixture_are_named_and_those_of_this_machine_are_not(encoder, run):
    mixture = [
        {"dataset": "ethz/food101", "weight": 0.7},
        {"dataset": "/home/someone/photos", "weight": 0.2},
        {"dataset": "user/tars", "data_files": ["a/*.tar", "https://storage.example/x.tar?key=secret"], "weight": 0.1},
    ]
    write_run(run, "ylecun/mnist")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"mixture": mixture}), encoding="utf-8")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert ModelCard(text).data.datasets == ["ethz/food101", "user/tars"]
    assert "\n- 70 %: [ethz/food101]" in text and "\n- 20 %: local images, split `train`. Their licence" in text
    assert "\n# lejepa-resnet\n" in text and "which pretraining did not use" not in text
    assert "a/*.tar" in text and "weight: 0.7" in text
    assert not any(private in text for private in ("someone", "photos", "storage.example", "secret"))


def pictures_in(text: str) -> list[str]:
    return re.findall(r"!\[.*\]\((.*)\)", text)


def test_labels_that_chose_the_images_are_told(encoder, run):
    write_run(run, "ylecun/mnist")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"class_balanced": True}), encoding="utf-8")
    text = " ".join(write_model_card(encoder, run).read_text(encoding="utf-8").split())
    assert "pretrained without" not in text.lower()
    assert "pretrained with [LeJEPA]" in text and "Pretrained on 5,000 images" in text
    assert "each class was drawn with the same probability (`class_balanced`)" in text


def test_pictures_are_those_there_are_of_these_weights(encoder, run, tmp_path, tiny_resnet):
    write_run(run, "digits")
    (run / "pictures" / "gaussianity.png").write_bytes(b"a picture")
    found = pictures_in(write_model_card(encoder, run).read_text(encoding="utf-8"))
    assert found == [f"../pictures/{name}.png" for name in ("losses", "gaussianity", "embeddings")]
    assert all((encoder / picture).is_file() for picture in found)
    assert pictures_in(write_model_card(encoder, run, ema_decay=0.999).read_text(encoding="utf-8")) == [
        "../pictures/losses.png"
    ]
    assert pictures_in(write_model_card(encoder, run, is_final=False).read_text(encoding="utf-8")) == []
    outside = write_model_card(export(tiny_resnet, tmp_path / "elsewhere"), run).read_text(encoding="utf-8")
    assert pictures_in(outside) == [] and "## Pictures" not in outside
    deeper = export(tiny_resnet, run / "exports" / "one")
    assert all(
        (deeper / picture).is_file()
        for picture in pictures_in(write_model_card(deeper, run).read_text(encoding="utf-8"))
    )


def test_statistics_are_of_the_weights_in_training(encoder, run):
    write_run(run, "digits")
    assert "effective rank 7.5" in write_model_card(encoder, run).read_text(encoding="utf-8")
    assert "effective rank" not in write_model_card(encoder, run, ema_decay=0.999).read_text(encoding="utf-8")
    assert "effective rank" not in write_model_card(encoder, run, is_final=False).read_text(encoding="utf-8")


def test_card_at_the_root_of_a_repository(encoder, run):
    write_run(run, "digits")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    moved = card_for_repository(text, has_pictures=True)
    assert pictures_in(moved) == ["pictures/losses.png", "pictures/embeddings.png"]
    bare = card_for_repository(text, has_pictures=False)
    assert pictures_in(bare) == [] and "## Pictures" not in bare and "\n\n\n" not in bare
    assert ModelCard(moved).data.to_dict() == ModelCard(bare).data.to_dict() == ModelCard(text).data.to_dict()


def test_evaluation_on_images_of_the_same_split_is_not_called_unseen(encoder, run):
    write_run(run, "digits", "--train_split", "train[:1000]", "--eval_split", "train[1000:]")
    assert "which pretraining did not use" not in write_model_card(encoder, run).read_text(encoding="utf-8")


def test_a_stream_that_does_not_say_how_long_it_is(encoder, run):
    write_run(run, "user/stream")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    results["run"] |= {"num_train_images": None, "num_eval_images": None, "epochs": None}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert "None" not in re.sub(r"```yaml\n.*?```", "", text, flags=re.DOTALL)
    assert "Pretrained without labels on [user/stream](" in text and "300 steps of 64 images in 12 s on" in text


@pytest.mark.parametrize(
    ("processes", "command"), [(1, "lejepa train recipe"), (4, "--num_processes 4 -m lejepa_hf train recipe")]
)
def test_the_recipe_of_the_card_repeats_the_run(encoder, run, processes, command):
    write_run(run, "digits", "--per_device_train_batch_size", str(64 // processes))
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    assert command in text.partition("## Reproduce")[2]
    (run / "again.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    again, first = parse_recipe(run / "again.yaml"), parse_recipe(run / "recipe.yaml")
    assert (again.model, again.data) == (first.model, first.data)
    own = ("output_dir", "run_name")
    assert {k: v for k, v in again.resolved().items() if k not in own} == {
        k: v for k, v in first.resolved().items() if k not in own
    }


def test_results_name_the_configuration_and_revision_they_are_of(encoder, run):
    write_run(run, "ylecun/mnist", "--dataset_config", "small", "--dataset_revision", "v1")
    text = write_model_card(encoder, run).read_text(encoding="utf-8")
    for result in ModelCard(text).data.eval_results:
        assert (result.dataset_config, result.dataset_revision) == ("small", "v1")
    assert "/ylecun/mnist), configuration `small`, split `train`, revision `v1`." in text


def test_no_licence_of_the_weights_is_made_up(encoder, run):
    write_run(run, "digits")
    card = ModelCard.load(write_model_card(encoder, run))
    assert card.data.license is None and "No licence is stated for the weights." in card.text
    assert "Digits](https://archive.ics.uci.edu/" in card.text and "Licence: CC BY 4.0." in card.text


def test_the_licence_of_the_weights(encoder, run):
    write_run(run, "digits", "--license", "cc-by-nc-4.0")
    card = ModelCard.load(write_model_card(encoder, run))
    assert card.data.license == "cc-by-nc-4.0" and "\n- Licence of the weights: cc-by-nc-4.0.\n" in card.text
    assert "No licence is stated for the weights" not in card.text


def test_energy_where_it_is_known(encoder, run):
    write_run(run, "digits")
    assert "Energy" not in write_model_card(encoder, run).read_text(encoding="utf-8")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    results["run"] |= {"energy_kwh": 0.012345, "energy_source": "the GPUs, by their counters (NVML)"}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert "\nEnergy: 0.0123 kWh of the GPUs, by their counters (NVML).\n" in write_model_card(encoder, run).read_text(
        encoding="utf-8"
    )


KNN = {"encoder": 0.8, "averaged_encoder": 0.9}


@pytest.fixture
def weights(tmp_path, tiny_resnet):
    """A finished run: the encoder it ended with, its average, and those of a checkpoint."""
    folder = tmp_path / "run"
    for number, name in enumerate(("encoder", "encoder_averaged", "encoder-100", "encoder_averaged-100")):
        torch.manual_seed(number)
        model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))
        export_encoder(model, folder / name, build_processor(16))
        (folder / name / "README.md").unlink()
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"dataset": "digits", "ema_decay": 0.99}))
    facts = {"train_split": "train", "eval_split": "test", "num_train_images": 9, "num_eval_images": 9, "steps": 3}
    facts |= {"global_batch": 8, "epochs": 2.0, "train_seconds": 1.0, "device": "1 CPU threads"}
    results = {name: {"eval_knn_top1": value} for name, value in KNN.items()}
    results |= {"table": "| a table |", "run": facts | {"encoder_parameters": 9}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize(
    ("name", "top1", "is_average"),
    [
        (None, 0.8, False),
        ("encoder", 0.8, False),
        ("encoder_averaged", 0.9, True),
        ("encoder-100", None, False),
        ("encoder_averaged-100", None, True),
    ],
)
def test_figures_are_those_of_the_weights(weights, name, top1, is_average):
    path = rewrite_model_card(weights, None if name is None else weights / name)
    assert path == weights / (name or "encoder") / "README.md"
    card = ModelCard.load(path)
    found = [result.metric_value for result in card.data.eval_results or []]
    assert found == ([] if top1 is None else [top1])
    assert ("exponential moving average, decay 0.99." in card.text) == is_average
    assert ("| a table |" in card.text) == (top1 is not None)


@pytest.mark.parametrize(("name", "top1"), [("encoder", 0.8), ("encoder_averaged", 0.9)])
def test_a_copy_elsewhere_is_known_by_its_weights(weights, tmp_path, name, top1):
    shutil.copytree(weights / name, tmp_path / "copy")
    (result,) = ModelCard.load(rewrite_model_card(weights, tmp_path / "copy")).data.eval_results
    assert result.metric_value == top1


def test_command(weights, capsys):
    assert main(["card", str(weights)]) == 0
    assert capsys.readouterr().out == f"{weights / 'encoder' / 'README.md'}\n"
    assert main(["card", str(weights), "--encoder", str(weights / "encoder-100")]) == 0
    assert (weights / "encoder-100" / "README.md").is_file()


def test_command_refuses_in_one_line(weights, tmp_path, capsys):
    shutil.copytree(weights / "encoder-100", tmp_path / "other")
    (weights / "encoder-100" / "config.json").write_text('{"model_type": "lejepa"}')
    for arguments, message in (
        ([str(tmp_path)], "encoder' holds no encoder: write it with `lejepa export"),
        ([str(weights), "--encoder", str(weights / "nowhere")], "nowhere' holds no encoder"),
        ([str(weights), "--encoder", str(weights / "encoder-100")], "holds a model in training"),
        ([str(weights), "--encoder", str(tmp_path / "other")], "nor of a checkpoint exported there"),
    ):
        assert main(["card", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_local_path_is_local_from_wherever_the_card_is_written(weights, tmp_path, monkeypatch, is_recorded):
    """Written anew from another working folder, where `data/photos` is not."""
    (tmp_path / "data" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    recipe = {"dataset": "data/photos", "pretrained_backbone": "data/vit", "train_split": "train"}
    RunFolder(weights).write_start(recipe)
    if not is_recorded:  # as by version 0.1.0
        RunFolder(weights).record.unlink()
    here = write_model_card(weights / "encoder", weights).read_text()
    (tmp_path / "elsewhere" / "data" / "vit").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    card = ModelCard.load(rewrite_model_card(weights))
    assert "local images, split `train`" in here and "datasets:" not in here
    if is_recorded:
        assert card.content == here
        assert card.data.datasets is None and card.data.base_model == "data/vit"  # an id of the Hub then
        assert "dataset: <local>" in card.text
