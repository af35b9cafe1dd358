import json
import shutil

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.cli import main
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.rewritten_card import remake_model_card

KNN = {"encoder": 0.8, "averaged_encoder": 0.9}


@pytest.fixture
def run(tmp_path, tiny_resnet):
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
def test_figures_are_those_of_the_weights(run, name, top1, is_average):
    path = remake_model_card(run, None if name is None else run / name)
    assert path == run / (name or "encoder") / "README.md"
    card = ModelCard.load(path)
    found = [result.metric_value for result in card.data.eval_results or []]
    assert found == ([] if top1 is None else [top1])
    assert ("exponential moving average, decay 0.99." in card.text) == is_average
    assert ("| a table |" in card.text) == (top1 is not None)


@pytest.mark.parametrize(("name", "top1"), [("encoder", 0.8), ("encoder_averaged", 0.9)])
def test_a_copy_elsewhere_is_known_by_its_weights(run, tmp_path, name, top1):
    shutil.copytree(run / name, tmp_path / "copy")
    (result,) = ModelCard.load(remake_model_card(run, tmp_path / "copy")).data.eval_results
    assert result.metric_value == top1


def test_command(run, capsys):
    assert main(["card", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'encoder' / 'README.md'}\n"
    assert main(["card", str(run), "--encoder", str(run / "encoder-100")]) == 0
    assert (run / "encoder-100" / "README.md").is_file()


def test_command_refuses_in_one_line(run, tmp_path, capsys):
    shutil.copytree(run / "encoder-100", tmp_path / "other")
    (run / "encoder-100" / "config.json").write_text('{"model_type": "lejepa"}')
    for arguments, message in (
        ([str(tmp_path)], "encoder' holds no encoder: write it with `lejepa export"),
        ([str(run), "--encoder", str(run / "nowhere")], "nowhere' holds no encoder"),
        ([str(run), "--encoder", str(run / "encoder-100")], "holds a model in training"),
        ([str(run), "--encoder", str(tmp_path / "other")], "nor of a checkpoint exported there"),
    ):
        assert main(["card", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
