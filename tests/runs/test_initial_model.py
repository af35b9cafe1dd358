"""First models of runs: fresh, pretrained, and those of earlier runs, from folders and from a Hub on loopback."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_client import TOKEN, connect, environment
from hub_server import HubServer
from huggingface_hub.utils import close_session
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining
from lejepa_hf.hub.checkpoint_push import _export_and_push, _keep
from lejepa_hf.hub.export import build_processor, export_encoder
from lejepa_hf.hub.push import push_run
from lejepa_hf.runs.arguments import ModelArguments
from lejepa_hf.runs.initial_model import build_config, build_model, find_earlier_run
from lejepa_hf.runs.pretraining import build, main
from lejepa_hf.runs.recipes import Recipe, parse_recipe
from lejepa_hf.runs.resolving import resolve
from lejepa_hf.system.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
ID, OTHER = "me/encoder", "hf_" + "b" * 30
MEAN = [0.25, 0.25, 0.25]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me", OTHER: "somebody"}) as server:
        connect(server, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
    close_session()


@pytest.fixture
def earlier(tmp_path, tiny_resnet) -> Path:
    """The folder of a run that ended, and one of its checkpoints, of other weights."""
    run = tmp_path / "earlier"
    for number, name in enumerate(("pretraining", "checkpoint-2")):
        torch.manual_seed(number)
        config = LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[16, 8], num_slices=32, directions_seed=3)
        LeJEPAForPreTraining(config).save_pretrained(run / name)
        build_processor(16, image_mean=MEAN).save_pretrained(run / name)
    export_encoder(run)
    return run


@pytest.fixture
def recipe(tmp_path):
    def write(start: str, *arguments: str, **keys) -> Recipe:
        keys = {"dataset": "digits", "use_cpu": True, "output_dir": str(tmp_path / "run"), "max_steps": 1} | keys
        keys |= {"global_crop_size": 16, "local_crop_size": 12, "blur_kernel_size": 5, "num_slices": 16}
        keys |= {"per_device_train_batch_size": 8, "dataloader_num_workers": 0, "monitors": [], "report_to": ["none"]}
        (tmp_path / "recipe.yaml").write_text(json.dumps(keys | {"continue_from": start}))
        return parse_recipe(tmp_path / "recipe.yaml", list(arguments))

    return write


def is_from(recipe: Recipe, folder: Path) -> bool:
    """Whether the model that the recipe starts with has the weights there, the projector's too."""
    model, earlier = find_earlier_run(recipe)
    found = build_model(build_config(model, earlier=earlier), earlier=earlier).state_dict()
    trained = load_file(folder / "model.safetensors")
    assert any(name.startswith("projector.") for name in trained)
    return all(torch.equal(found[name], value) for name, value in trained.items())


def test_folders(earlier, recipe):
    for given, folder in (("", "pretraining"), ("pretraining", "pretraining"), ("checkpoint-2", "checkpoint-2")):
        assert is_from(recipe(str(earlier / given)), earlier / folder)


def test_what_nobody_gave_is_as_there(earlier, recipe, tiny_resnet, caplog):
    caplog.set_level(logging.INFO)
    asked = resolve(recipe(str(earlier), seed=3, sigreg_weight=0.1, backbone_config=tiny_resnet))
    trainer, _ = build(asked)
    config = trainer.model.config
    assert config.projector_dims == asked.model.projector_dims == [16, 8]
    assert (config.num_slices, config.sigreg_weight, config.directions_seed) == (16, 0.1, 3)  # the objective is ours
    assert asked.data.image_mean == MEAN
    assert f"Backbone and projector continue from {earlier}; optimizer and steps start from 0" in caplog.text
    assert "`seed` 3 was that run's too, so that its crops and directions are repeated" in caplog.text
    assert trainer.state.global_step == 0
    caplog.clear()
    find_earlier_run(recipe(str(earlier), seed=4))
    assert "directions are repeated" not in caplog.text
    again = parse_recipe(write_resolved(asked))
    assert is_from(again, earlier / "pretraining") and again.model == asked.model


def write_resolved(recipe: Recipe) -> Path:
    from lejepa_hf.system.run_folder import RunFolder

    folder = Path(recipe.training.output_dir)
    RunFolder(folder).write_start(recipe.resolved())
    return folder / "recipe.yaml"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"projector_dims": [8]}, r"`projector_dims` is \[16, 8\] there, \[8\] here"),
        (
            {"projector_norm": "layer", "pooling": "mean"},
            "`pooling` is 'auto' there, 'mean' here; `projector_norm` is",
        ),
        ({"backbone_config": {"model_type": "vit"}}, "`backbone_config.model_type` is 'resnet' there, 'vit' here"),
        (
            {"backbone_config": {"model_type": "resnet", "layer_type": "basic", "depths": [2, 1]}},
            r"`backbone_config.depths` is \[1, 1\] there, \[2, 1\] here\. Use its values",
        ),
    ],
)
def test_another_network_is_refused_by_name(earlier, recipe, keys, message):
    with pytest.raises(ValueError, match=rf"`continue_from` '{earlier}' has another network: .*{message}"):
        find_earlier_run(recipe(str(earlier), **keys))


def test_a_private_repository_and_a_branch_of_it(hub, earlier, recipe, monkeypatch):
    push_run(earlier, ID, private=True)
    checkpoint = earlier / "checkpoint-2"
    kept = _keep(checkpoint, RunFolder(earlier).waiting_push(checkpoint))
    _export_and_push(str(kept), ID, "checkpoint-2", "true")
    assert is_from(recipe(ID), earlier / "pretraining")
    assert is_from(recipe(f"{ID}@checkpoint-2"), earlier / "checkpoint-2")
    hub.stop()
    connect(hub, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert is_from(recipe(f"{ID}@checkpoint-2"), earlier / "checkpoint-2")  # from the cache
    with pytest.raises(ValueError, match="'me/other' is neither a folder here nor in the cache .* HF_HUB_OFFLINE is"):
        find_earlier_run(recipe("me/other"))


@pytest.mark.parametrize(
    ("start", "token", "message"),
    [
        (
            "me/private",
            OTHER,
            "'me/private' was not found: .* for a private one log in with `hf auth login`, or set HF",
        ),
        ("me/private", None, "'me/private' was not found: "),
        ("me/gated", OTHER, r"'me/gated' is gated: accept its terms on {url}/me/gated, then log in as that account"),
        (
            f"{ID}@checkpoint-9",
            TOKEN,
            "'me/encoder@checkpoint-9' has no branch, tag or commit 'checkpoint-9': see {url}",
        ),
        (
            "me/bare",
            TOKEN,
            "'me/bare' has no pretraining/, .*: start from its encoder alone, with `pretrained_backbone`",
        ),
        (ID, "hf_" + "x" * 30, "'me/encoder' cannot be read: {url} does not accept this login. Make a new token at"),
        ("runs/a/b", TOKEN, "'runs/a/b' is neither a folder here nor a name of a repository"),
    ],
)
def test_what_the_hub_does_not_give(hub, earlier, recipe, monkeypatch, start, token, message):
    push_run(earlier, ID)
    push_run(earlier / "encoder", "me/bare")
    push_run(earlier, "me/private", private=True)
    hub.create("me/gated", gated=True)
    hub.put("me/gated", {name: data for name, data in hub.files(ID).items() if name.startswith("pretraining/")})
    connect(hub, monkeypatch, token)
    with pytest.raises(ValueError, match=f"`continue_from` {message.format(url=hub.url)}") as error:
        find_earlier_run(recipe(start))
    assert "\n" not in str(error.value) and "hf_" not in str(error.value)


def test_folders_without_a_network_in_training(earlier, recipe, tmp_path):
    with pytest.raises(ValueError, match=r"`continue_from` '.*encoder' has no pretraining/"):
        find_earlier_run(recipe(str(earlier / "encoder")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`continue_from` '.*empty' holds neither pretraining/ nor a checkpoint"):
        find_earlier_run(recipe(str(tmp_path / "empty")))


@pytest.mark.slow
def test_the_whole_way(hub, recipe, tmp_path, tiny_resnet, capfd, monkeypatch):
    """A run pushes itself and its checkpoints; `train.py` elsewhere goes on from one of those, and offline again."""
    monkeypatch.delenv("HF_HUB_OFFLINE")  # of the processes that push
    for name, value in environment(hub, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    recipe("x", backbone_config=tiny_resnet, projector_dims=[16, 8])
    push = ["--push_to_hub", "--hub_model_id", ID, "--hub_private_repo", "--hub_strategy", "all_checkpoints"]
    first = [str(tmp_path / "recipe.yaml"), "--continue_from", "null", "--max_steps", "4", "--save_steps", "2", *push]
    assert main(first) == 0, capfd.readouterr().err
    weights = {
        revision: hub.files(ID, revision)["pretraining/model.safetensors"] for revision in ("main", "checkpoint-2")
    }
    assert weights["main"] != weights["checkpoint-2"]
    start = f"{ID}@checkpoint-2"
    for number, offline in enumerate(({}, {"HF_HUB_OFFLINE": "1"})):
        folder, before = tmp_path / f"run-{number}", len(hub.requests)
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), str(tmp_path / "recipe.yaml"), "--continue_from", start,
             "--output_dir", str(folder), "--learning_rate", "1e-30", "--seed", "5"],
            env=environment(hub, tmp_path / "cache", HF_TOKEN=TOKEN, **offline), cwd=tmp_path,
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert (
            f"Backbone and projector continue from {start};" in done.stdout and TOKEN not in done.stdout + done.stderr
        )
        assert (len(hub.requests) == before) == bool(offline)
        (tmp_path / "there").write_bytes(weights["checkpoint-2"])
        there, here = load_file(tmp_path / "there"), load_file(folder / "pretraining" / "model.safetensors")
        moved = [name for name in there if not torch.equal(there[name], here[name])]
        assert all("running_" in name or "num_batches" in name for name in moved), moved  # of batch norm
        card = (folder / "encoder" / "README.md").read_text()
        assert f"\nbase_model: {ID}\n" in card
        assert (
            f"Training went on from {ID} at revision checkpoint-2, backbone and projector, with a new optimizer."
            in card
        )


def test_a_fresh_model(tiny_resnet):
    arguments = ModelArguments(backbone_config=tiny_resnet, projector_dims=[16, 8], sigreg_weight=0.1)
    config = build_config(arguments, seed=7)
    assert (config.projector_dims, config.sigreg_weight, config.directions_seed) == ([16, 8], 0.1, 7)
    torch.manual_seed(0)
    first = build_model(config)
    torch.manual_seed(1)
    second = build_model(config)
    assert first.config.to_dict() == config.to_dict() and first.config is not config
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    assert arguments.backbone_config == tiny_resnet, "nothing changes the arguments"


def test_a_warm_start_has_the_backbone_of_the_checkpoint(tmp_path, tiny_resnet):
    torch.manual_seed(0)
    pretrained = AutoModel.from_config(AutoConfig.for_model(**tiny_resnet))
    pretrained.save_pretrained(tmp_path)
    arguments = ModelArguments(pretrained_backbone=str(tmp_path), projector_dims=[8])
    config = build_config(arguments, seed=3)
    torch.manual_seed(1)
    model = build_model(config, str(tmp_path))
    torch.manual_seed(1)
    again = LeJEPAForPreTraining.from_pretrained_backbone(tmp_path, projector_dims=[8], directions_seed=3)
    assert model.config.to_dict() == again.config.to_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    for name, value in pretrained.state_dict().items():
        assert torch.equal(model.encoder.backbone.state_dict()[name], value), name
    assert build_config(arguments, seed=3).to_dict() == build_config(arguments, seed=3).to_dict()
    assert build_config(arguments).backbone_config.hidden_sizes == tiny_resnet["hidden_sizes"]


def test_a_continued_model_has_the_earlier_backbone_and_projector(tmp_path, tiny_resnet):
    saved = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8], num_slices=32))
    saved.save_pretrained(tmp_path)
    arguments = ModelArguments(continue_from="earlier", projector_dims=[8], num_slices=16)
    model = build_model(build_config(arguments, earlier=tmp_path), earlier=tmp_path)
    assert model.config.num_slices == 16, "the objective is the new run's"
    for name, value in saved.state_dict().items():
        assert name.startswith("sigreg") or torch.equal(model.state_dict()[name], value), name


def test_a_recipe_that_continues_must_be_resolved():
    with pytest.raises(AssertionError, match="resolve the recipe first"):
        build_config(ModelArguments(continue_from="earlier"))
