"""Checkpoints, encoders, configs, recipes and data of others: nothing in them runs, whatever they contain."""

import ast
import io
import json
import os
import pickle
import re
import stat
import sys
import tarfile
from pathlib import Path

import numpy as np
import payload
import pytest
import torch
from payload import Payload
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
from lejepa_hf.cli import main
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.encoder_loading import load_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.onnx_export import export_onnx
from lejepa_hf.model.backbone import load_pretrained_backbone
from lejepa_hf.runs.pretraining import main as train
from lejepa_hf.training.checkpoints import resolve_resume


@pytest.fixture
def marker(tmp_path):
    """A folder that a payload would make, and that must not be there after the test."""
    path = tmp_path / "code has run"
    yield path
    assert not path.exists()


@pytest.fixture
def checkpoint(tmp_path, tiny_resnet):
    """A checkpoint in shards."""
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))
    return payload.save_checkpoint(model, tmp_path / "run" / "checkpoint-1", sharded=True)


@pytest.fixture
def encoder(tmp_path, tiny_resnet):
    AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).save_pretrained(tmp_path / "encoder")
    build_processor(16).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    text = f"dataset: digits\nuse_cpu: true\noutput_dir: {tmp_path}/new\nbackbone_config: {{model_type: resnet}}\n"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_payload_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


def error_of(capfd) -> str:
    """The only line that a command wrote to stderr as an error."""
    captured = capfd.readouterr()
    (error,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in captured.err and "weights_only" not in captured.err
    return error


def in_planner_data(folder, payload):
    def change(metadata):
        metadata.planner_data = payload

    payload_module.change_metadata(folder, change)


payload_module = payload
IN_SHARDS = {
    "as the metadata": lambda folder, payload: (folder / ".metadata").write_bytes(pickle.dumps(payload)),
    "in the metadata": in_planner_data,
    "among the shards": payload_module.hide_in_a_shard,
}


@pytest.mark.parametrize("place", IN_SHARDS)
def test_shards_of_others(checkpoint, recipe, marker, capfd, place):
    """Exported, continued, and resumed."""
    IN_SHARDS[place](checkpoint / "pytorch_model_fsdp_0", Payload(marker))
    without_backbone = recipe.with_name("continued.yaml")
    without_backbone.write_text(re.sub("backbone_config.*", "", recipe.read_text()))
    refused = r"`(posix|nt)\.mkdir`, which could run code"
    for call in (
        lambda: main(["export", str(checkpoint)]),
        lambda: train([str(recipe), "--resume", str(checkpoint)]),
        lambda: train([str(without_backbone), "--continue_from", str(checkpoint)]),
    ):
        assert call() == 2
        error = error_of(capfd)
        assert re.search(refused, error) and "pytorch_model_fsdp_0" in error and "checkpoint-1" in error


@pytest.mark.parametrize("place", IN_SHARDS)
def test_the_optimizer_of_others_in_shards(checkpoint, marker, place):
    assert resolve_resume(str(checkpoint), checkpoint.parent) == checkpoint
    IN_SHARDS[place](checkpoint / "optimizer_0", Payload(marker))
    with pytest.raises(ValueError, match=r"optimizer_0 .*`(posix|nt)\.mkdir`, which could run code"):
        resolve_resume(str(checkpoint), checkpoint.parent)


def test_the_best_checkpoint_that_a_state_names(tmp_path, checkpoint, marker, tiny_resnet, caplog):
    from test_trainer import model_for, trainer_for

    IN_SHARDS["as the metadata"](checkpoint / "pytorch_model_fsdp_0", Payload(marker))
    trainer = trainer_for(tmp_path / "own", model_for(tiny_resnet))
    trainer.state.best_model_checkpoint = str(checkpoint)
    trainer._load_best_model()
    assert "cannot be read (pytorch_model_fsdp_0" in caplog.text and "the last weights are kept" in caplog.text


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_states_of_others(tmp_path, tiny_resnet, marker, name, write):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))
    checkpoint = payload.save_checkpoint(model, tmp_path / "checkpoint-1")
    torch.save(Payload(marker), checkpoint / "training_args.bin")  # of a stock Trainer: never read
    assert resolve_resume("auto", tmp_path) == checkpoint
    write(Payload(marker), checkpoint / name)
    with pytest.raises(ValueError, match=f"checkpoint-1 is skipped, because {name} (contains|is damaged)") as error:
        resolve_resume("auto", tmp_path)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("load", [load_encoder, lambda folder: load_pretrained_backbone(str(folder))])
def test_weights_that_are_a_pickle(encoder, marker, write, load):
    (encoder / "model.safetensors").unlink()
    write(Payload(marker), encoder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read: pytorch_model.bin (contains|is damaged)") as error:
        load(encoder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"model_type": "own"}, {"model_type": None}])
@pytest.mark.parametrize("place", ["config.json", "preprocessor_config.json"])
def test_code_in_the_repository_is_never_run_nor_asked_about(encoder, marker, monkeypatch, capfd, changes, place):
    """transformers would ask, and run the code for a `y`."""
    (encoder / "own.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Own: pass\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor"), "own.Own")
    file = encoder / place
    content = json.loads(file.read_text()) | {"auto_map": classes, "image_processor_type": "Own"} | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    assert main(["evaluate", str(encoder), "--dataset", "digits"]) == 2
    assert "needs Python code from its own repository (`auto_map` in its files)" in error_of(capfd)
    assert sys.stdin.tell() == 0


def test_a_known_class_is_used_whatever_code_lies_beside_it(encoder, marker):
    (encoder / "own.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Own: pass\n")
    file = encoder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoModel": "own.Own"}}))
    assert type(load_encoder(encoder)[0]).__name__ == "ResNetModel"


def test_weights_that_timm_would_read(encoder, marker, tmp_path):
    for package in ("timm", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    torch.save(Payload(marker), tmp_path / "weights.pth")
    arguments = {"checkpoint_path": str(tmp_path / "weights.pth")}
    config = {"model_type": "timm_wrapper", "architecture": "resnet10t", "num_classes": 0, "model_args": arguments}
    (encoder / "config.json").write_text(json.dumps(config | {"embedding_pooling": "mean"}))
    for load in (
        lambda: export_onnx(encoder),
        lambda: load_encoder(encoder),
        lambda: load_pretrained_backbone(str(encoder)),
        lambda: LeJEPAForPreTraining(LeJEPAConfig(backbone_config=config)),
    ):
        with pytest.raises(ValueError, match="names `checkpoint_path` '.*weights.pth': a config describes a network"):
            load()


def test_a_recipe_is_only_text(recipe, marker, capfd):
    recipe.write_text(f"dataset: !!python/object/apply:os.mkdir [{str(marker)!r}]\n", encoding="utf-8")
    assert train([str(recipe)]) == 2
    assert "is not valid YAML" in error_of(capfd)


# Data


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pickled(value: object) -> bytes:
    return pickle.dumps(value)


def saved_by_torch(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def saved_by_numpy(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], dtype=object), allow_pickle=True)
    return buffer.getvalue()


MEMBERS = {"pyd": pickled, "pickle": pickled, "pkl": pickled, "pth": saved_by_torch, "ten": pickled, "mp": pickled}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", MEMBERS)
def test_objects_in_a_tar_stay_bytes(tmp_path, marker, ending, streaming):
    hidden = MEMBERS[ending](Payload(marker))
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for number in range(3):
            for name, content in ((f"{number}.png", png()), (f"{number}.{ending}", hidden)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    rows = list(load_source(str(tmp_path / "images.tar"), streaming=streaming).dataset)
    assert [row[ending] for row in rows] == [hidden] * 3


@pytest.mark.parametrize("content", [pickled, saved_by_torch, saved_by_numpy])
def test_bytes_that_are_not_an_image(marker, content):
    with pytest.raises((OSError, ValueError)):
        decode_image(content(Payload(marker)))


def in_iptc(content: bytes) -> bytes:
    """An IPTC file of 1 x 1 pixels whose image data is another file."""
    numbers = {(3, 60): b"\x01\x00", (3, 20): b"\x00\x01", (3, 30): b"\x00\x01", (3, 120): b"\x05"}
    fields = b"".join(bytes([0x1C, *tag, 0, len(value)]) + value for tag, value in numbers.items())
    return fields + bytes([0x1C, 8, 10, 132, 0]) + len(content).to_bytes(4, "big") + content + bytes(5)


def test_a_file_within_a_file_is_not_read():
    """It may have any size and kind, whatever the outer one says."""
    with pytest.raises(ValueError, match="IPTC files may contain any other file"):
        decode_image(in_iptc(png()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_ghostscript_is_not_started(tmp_path, marker, monkeypatch, wrapped):
    """An EPS file is a program."""
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin64c"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\nmkdir '{marker}'\n")
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, "EPS")
    with pytest.raises(ValueError, match="IPTC files" if wrapped else "EPS files are programs"):
        decode_image(in_iptc(buffer.getvalue()) if wrapped else buffer.getvalue())


def test_a_dataset_with_a_program(tmp_path, marker):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "pictures.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    import datasets

    datasets.Dataset.from_dict({"image": [png()]}).to_parquet(folder / "train.parquet")
    with pytest.raises(ValueError, match=r"is a program \(pictures.py\), which is never run"):
        load_source(str(folder))


def test_pickles_of_pandas(tmp_path, marker):
    (tmp_path / "table.pkl").write_bytes(pickled(Payload(marker)))
    with pytest.raises(ValueError, match="reads pickles, which could run code"):
        load_source("pandas", data_files=str(tmp_path / "table.pkl"))


@pytest.mark.parametrize("pattern", [r"torch\.load\(", r"pickle\.loads?\(", r"np\.load\(", r"yaml\.load\(", "joblib"])
def test_every_reader_in_the_sources_is_protected(pattern):
    """A new call must be one of those that make tensors, numbers and texts only."""
    protected = ("weights_only=True", "allow_pickle=False", "_Loader")
    for path in Path(__file__).parents[1].joinpath("src").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(pattern, line) or any(word in line for word in protected), f"{path}: {line}"


def test_every_class_of_transformers_is_loaded_without_code():
    """transformers asks at the terminal otherwise, where a `y` runs the code."""
    loaders = ("from_pretrained", "from_config")
    for path in Path(__file__).parents[1].joinpath("src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in loaders):
                continue
            if ast.unparse(node.func.value).startswith("Auto"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}, line {node.lineno}"
