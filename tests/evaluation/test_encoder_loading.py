import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from lejepa_hf import LeJEPAConfig
from lejepa_hf.cli import main
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings.extraction import extract_embeddings
from lejepa_hf.evaluation.encoder_loading import find_encoder, load_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.model.backbone import load_pretrained_backbone


@pytest.fixture
def folder(tiny_resnet, tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).save_pretrained(tmp_path / "resnet")
    build_processor(16, crop_ratio=1.0).save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


def test_half_precision_is_loaded_in_fp32(folder):
    model, _ = load_encoder(folder)
    model.bfloat16().save_pretrained(folder)
    again, _ = load_encoder(folder)
    assert again.dtype == torch.float32 and not again.training
    assert all(torch.equal(value, model.state_dict()[name].to(value)) for name, value in again.state_dict().items())


def test_weights_that_are_not_there(folder):
    weights = load_file(folder / "model.safetensors")
    renamed = {f"student.{name}": tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"leaves \d+ weights of a resnet unfilled .*checkpoint of another architecture"
    ):
        load_encoder(folder)


def test_a_pooler_that_nobody_trained_is_left_out(tiny_vit, tmp_path):
    torch.manual_seed(0)
    without = AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False)
    without.save_pretrained(tmp_path)  # as a classifier's checkpoint is: it has no pooler
    build_processor(16, crop_ratio=1.0).save_pretrained(tmp_path)
    model, processor = load_encoder(tmp_path)
    source = load_source("digits", "test")
    source = replace(source, dataset=source.dataset.select(range(20)))
    found = extract_embeddings(model, processor, source).embeddings
    without.config.embedding_pooling = "cls"
    torch.testing.assert_close(found, extract_embeddings(without, processor, source).embeddings)


def test_a_device_that_is_not_there(folder):
    with pytest.raises(ValueError, match="`device` 'abacus' cannot be used here"):
        load_encoder(folder, "abacus")


def test_a_missing_encoder_is_named(tmp_path):
    with pytest.raises(ValueError, match="`encoder` '.*nothing' is neither a folder here nor"):
        load_encoder(tmp_path / "nothing")


def test_an_encoder_without_processor_gets_the_way_out(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="`encoder` '.*' has no preprocessor_config.json, .*: save an image"):
        load_encoder(folder)


def test_a_run_folder_means_its_encoder(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    folder.rename(run / "encoder")
    assert find_encoder(run) == run / "encoder" and find_encoder(run / "encoder") == run / "encoder"
    assert find_encoder("someone/encoder") == "someone/encoder"
    assert load_encoder(run)[0].config.model_type == "resnet"


def test_a_model_in_training_form_names_the_encoder(folder, tmp_path, capsys):
    run = tmp_path / "run"
    for name in ("pretraining", "checkpoint-40"):
        (run / name).mkdir(parents=True)
        config = LeJEPAConfig(backbone_config=AutoConfig.from_pretrained(folder).to_dict())
        config.save_pretrained(run / name)
    for name in ("run.json", "recipe.yaml"):
        (run / name).write_text("{}", encoding="utf-8")
    expected = {
        "": "is a run without encoder/: `lejepa export {run}` writes it",
        "pretraining": "with its projector: export its encoder with `lejepa export {run}/pretraining`",
        "checkpoint-40": "with its projector: export its encoder with `lejepa export {run}/checkpoint-40`",
    }
    for name, line in expected.items():
        with pytest.raises(ValueError, match=re.escape(line.format(run=run))):
            load_encoder(run / name)
    folder.rename(run / "encoder")
    for command in (["evaluate"], ["embed", "digits", "--out", str(tmp_path / "x.parquet"), "--model"]):
        further = ["--dataset", "digits"] if command == ["evaluate"] else []
        assert main([*command, str(run / "pretraining"), *further]) == 2
        error = f"error: `encoder` '{run}/pretraining' is the model with its projector: use '{run}/encoder'.\n"
        assert capsys.readouterr().err == error
    (run / "pretraining" / "config.json").unlink()
    (run / "encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="has not ended; `lejepa export .*checkpoint-40` writes that of its last"):
        load_encoder(run)


def test_weights_that_are_not_finite_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    names = [name for name in weights if name.endswith("convolution.weight")][:4]
    for name in names:
        weights[name].view(-1)[0] = float("nan")
    statistics = next(name for name in weights if name.endswith("running_var"))
    weights[statistics][0] = float("inf")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    number = sum(value.is_floating_point() for value in weights.values())
    expected = rf"`encoder` .*: 5 of {number} tensors are not finite \({names[0]}, {names[1]}, {names[2]}, \.\.\.\)"
    with pytest.raises(ValueError, match=expected):
        load_encoder(folder)


@pytest.mark.parametrize("num_classes", [0, 5])
def test_encoders_that_timm_saved(tmp_path, num_classes):
    """Newer versions record `num_classes` among the arguments of the model, which was a TypeError."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    saved = timm.create_model("test_resnet", num_classes=num_classes).eval()
    timm.models.save_for_hf(saved, tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["model_args"] = {**config.get("model_args", {}), "num_classes": num_classes}  # as from 1.0.31 on
    file.write_text(json.dumps(config))
    pixels = torch.rand(2, 3, 64, 64)
    model, _ = load_encoder(tmp_path)
    backbone = load_pretrained_backbone(str(tmp_path))
    saved.reset_classifier(0)
    with torch.no_grad():
        for found in (model, backbone.eval()):
            torch.testing.assert_close(found(pixels).pooler_output, saved(pixels))
    backbone.save_pretrained(tmp_path / "again")
    assert load_encoder(tmp_path / "again")[0].config.model_args.get("num_classes") is None
