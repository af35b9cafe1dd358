import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_client import TOKEN, connect, environment
from hub_server import Fault, HubServer
from huggingface_hub.utils import close_session

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, LeJEPATrainingArguments, export_encoder
from lejepa_hf.hub import checkpoint_push as module
from lejepa_hf.hub.checkpoint_push import CheckpointPush
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.public_files import public_files
from lejepa_hf.runs.pretraining import main

ID = "me/encoder"
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}
CHECKPOINT = MODEL | {"README.md"} | {f"pretraining/{name}" for name in MODEL}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me", "hf_" + "b" * 30: "somebody"}) as server:
        connect(server, monkeypatch)
        monkeypatch.delenv("HF_HUB_OFFLINE")  # of the processes that push
        for name, value in environment(server, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        yield server
    close_session()


@pytest.fixture
def recipe(tmp_path, tiny_resnet) -> list[str]:
    (tmp_path / "recipe.yaml").write_text(
        "dataset: digits\nuse_cpu: true\nglobal_crop_size: 16\nlocal_crop_size: 12\nblur_kernel_size: 5\n"
        f"projector_dims: [16, 8]\nbackbone_config: {json.dumps(tiny_resnet)}\noutput_dir: {tmp_path}/run\n"
        "num_slices: 32\nmax_steps: 4\nsave_steps: 2\nlogging_steps: 1\nper_device_train_batch_size: 8\n"
        f"dataloader_num_workers: 0\nmonitors: []\npush_to_hub: true\nhub_model_id: {ID}\nreport_to: [none]\n"
    )
    return [str(tmp_path / "recipe.yaml")]


@pytest.mark.slow  # `test_only_the_end` is the short form
def test_a_run_and_its_checkpoints(hub, recipe, tmp_path, caplog, capfd):
    """The upload of the first checkpoint is refused once; training ends all the same, and the end makes it good."""
    hub.faults = [Fault("commit/checkpoint-2", status=400)]
    caplog.set_level(logging.INFO)
    assert main([*recipe, "--hub_private_repo", "--hub_strategy", "all_checkpoints"]) == 0, capfd.readouterr().err
    run = tmp_path / "run"
    reason = f"`repo_id` 'me/encoder': {hub.url} refuses (it was told to fail)"
    assert f"checkpoint-2 could not be pushed: {reason}" in caplog.text
    assert f"Pushed to {hub.url}/{ID}" in caplog.text
    content = hub.read(ID)
    assert content["private"] and content["refs"].keys() == {"main", "checkpoint-2", "checkpoint-4"}
    for step in (2, 4):
        files = hub.files(ID, f"checkpoint-{step}")
        assert files.keys() - {".gitattributes"} == CHECKPOINT
        encoder = export_encoder(run / f"checkpoint-{step}", tmp_path / f"encoder-{step}")
        assert files["model.safetensors"] == (encoder / "model.safetensors").read_bytes()
        trained = (run / f"checkpoint-{step}" / "model.safetensors").read_bytes()
        assert files["pretraining/model.safetensors"] == trained
    files = hub.files(ID)
    assert {"pretraining/model.safetensors", "recipe.yaml", "metrics.jsonl", "pictures/losses.png"} <= files.keys()
    assert files["model.safetensors"] == hub.files(ID, "checkpoint-4")["model.safetensors"]
    assert files["model.safetensors"] != hub.files(ID, "checkpoint-2")["model.safetensors"]
    assert not [name for name in files if "checkpoint" in name or "optimizer" in name or name.endswith(".bin")]
    assert "hub_model_id" in (run / "recipe.yaml").read_text() and b"hub" not in files["recipe.yaml"]
    for path in hub.folder.rglob("*"):
        for word in (str(tmp_path), TOKEN):
            assert path.is_dir() or word.encode() not in path.read_bytes()
    assert not list(run.glob("_*"))


@pytest.mark.slow
def test_only_the_end(hub, recipe, capfd):
    hub.faults = [Fault("commit/main", status=400)]
    assert main([*recipe, "--hub_strategy", "end"]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: `repo_id` '{ID}': ") and f"/run {ID}`" in error
    assert "The run is complete and only not pushed: `lejepa push " in error
    assert hub.read(ID)["refs"].keys() == {"main"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hub_model_id", "null"], "`push_to_hub` needs `hub_model_id`"),
        (["--hub_model_id", "encoder"], "`repo_id` 'encoder' must be of the form 'user/name'"),
        (["--hub_strategy", "checkpoint"], "would push the optimizer's state, which stays in the run folder"),
        (["--hub_token", "hf_" + "x" * 30], "does not accept this `token`"),
        (["--hub_token", "hf_" + "b" * 30], "has no right to write there"),
        ("down", "did not accept it"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_what_cannot_be_pushed_is_not_begun(hub, recipe, tmp_path, monkeypatch, capfd, arguments, message, exists):
    if exists:
        hub.create(ID)
    if arguments == "down":
        hub.stop()
        connect(hub, monkeypatch)
        arguments = []
    assert main([*recipe, *arguments]) == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error and "hf_" not in error
    assert not (tmp_path / "run" / "recipe.yaml").exists()


class FakeUploads:
    """In place of processes that upload: they end when they are told to."""

    def __init__(self, monkeypatch):
        self.started, self.fails = [], set()
        monkeypatch.setattr(CheckpointPush, "_start", self.start)

    def start(self, upload) -> SimpleNamespace:
        process = SimpleNamespace(returncode=None)
        process.poll = lambda: process.returncode
        process.wait = lambda: self.end(upload.branch, int(upload.branch in self.fails))
        (upload.folder / "push.log").write_text("something\nerror: no connection\n")
        self.started.append((upload.branch, process))
        return process

    def end(self, branch: str, code: int) -> None:
        next(process for name, process in reversed(self.started) if name == branch).returncode = code

    def names(self) -> list[str]:
        return [name for name, _ in self.started]


@pytest.fixture
def uploads(monkeypatch):
    return FakeUploads(monkeypatch)


def saves(run: Path, callback: CheckpointPush, step: int, is_first: bool = True) -> None:
    checkpoint = run / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "optimizer.pt", "trainer_state.json"):
        (checkpoint / name).write_text(f"{name} of {step}")
    callback.on_save(callback._args, SimpleNamespace(global_step=step, is_world_process_zero=is_first), None)


def make(run: Path, **settings) -> CheckpointPush:
    return CheckpointPush(
        LeJEPATrainingArguments(str(run), use_cpu=True, push_to_hub=True, hub_model_id=ID, report_to=[], **settings)
    )


def waiting(run: Path) -> set[str]:
    return {path.name for path in run.glob("_*")}


def test_where_uploads_are_slower_only_the_newest_waits(tmp_path, uploads, caplog):
    callback = make(tmp_path)
    for step in (1, 2, 3):
        saves(tmp_path, callback, step)
    assert uploads.names() == ["checkpoint-1"]
    assert waiting(tmp_path) == {"_checkpoint-1_to_push", "_checkpoint-3_to_push"}
    assert "checkpoint-2 is not pushed, since newer ones are" in caplog.text
    uploads.end("checkpoint-1", 0)
    callback.on_log(None, None, None)
    assert uploads.names() == ["checkpoint-1", "checkpoint-3"]
    callback.finish()
    assert waiting(tmp_path) == set()


@pytest.mark.parametrize("settings", [{"hub_strategy": "all_checkpoints"}, {"hub_always_push": True}])
def test_all_are_pushed_where_all_are_wanted(tmp_path, uploads, settings):
    callback = make(tmp_path, **settings)
    for step in (1, 2, 3):
        saves(tmp_path, callback, step)
    callback.finish()
    assert uploads.names() == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_a_failed_one_is_tried_again_at_the_next_save(tmp_path, uploads, caplog):
    callback = make(tmp_path)
    saves(tmp_path, callback, 1)
    uploads.end("checkpoint-1", 1)
    callback.on_log(None, None, None)
    assert "checkpoint-1 could not be pushed: no connection" in caplog.text
    assert uploads.names() == ["checkpoint-1"]
    saves(tmp_path, callback, 2)
    assert uploads.names() == ["checkpoint-1", "checkpoint-1"]
    uploads.end("checkpoint-1", 1)
    callback.on_log(None, None, None)
    uploads.end("checkpoint-2", 1)
    callback.on_log(None, None, None)
    assert waiting(tmp_path) == {"_checkpoint-1_to_push", "_checkpoint-2_to_push"}
    saves(tmp_path, callback, 3)  # what failed for long does not fill the disk
    assert waiting(tmp_path) == {"_checkpoint-2_to_push", "_checkpoint-3_to_push"}
    uploads.fails = {"checkpoint-2"}
    callback.finish()
    assert uploads.names()[3:] == ["checkpoint-2", "checkpoint-3", "checkpoint-2"]
    assert waiting(tmp_path) == set()


def test_what_it_reads_stays_when_the_checkpoint_is_deleted(tmp_path, uploads):
    callback = make(tmp_path)
    saves(tmp_path, callback, 1)
    for path in (tmp_path / "checkpoint-1").iterdir():
        path.unlink()
    kept = {path.name: path.read_text() for path in (tmp_path / "_checkpoint-1_to_push").iterdir()}
    assert kept.keys() == {"config.json", "model.safetensors", "push.log"}
    assert kept["model.safetensors"] == "model.safetensors of 1"


def test_a_checkpoint_of_fsdp_is_published_whole(tmp_path, tiny_resnet):
    """As one file of all weights; in shards it takes the same way."""
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet, projector_dims=[8]))
    checkpoint = tmp_path / "_checkpoint-1_to_push"
    model.config.save_pretrained(checkpoint)
    build_processor(16).save_pretrained(checkpoint)
    torch.save(model.state_dict(), checkpoint / "pytorch_model_fsdp.bin")
    for _ in range(2):  # the second time over what a killed upload left
        files = public_files(module._exported(checkpoint))
        assert files.keys() == CHECKPOINT
    again = LeJEPAForPreTraining.from_pretrained(checkpoint / "encoder" / "pretraining")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_shards_are_kept_whole(tmp_path, uploads):
    callback, shards = make(tmp_path), tmp_path / "checkpoint-1" / "pytorch_model_fsdp_0"
    (tmp_path / "checkpoint-1" / "optimizer_0").mkdir(parents=True)
    shards.mkdir()
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (shards / name).touch()
    callback.on_save(callback._args, SimpleNamespace(global_step=1, is_world_process_zero=True), None)
    kept = tmp_path / "_checkpoint-1_to_push"
    assert {path.name for path in kept.iterdir()} == {"pytorch_model_fsdp_0", "push.log"}
    assert {path.name for path in (kept / shards.name).iterdir()} == {path.name for path in shards.iterdir()}


def test_a_disk_without_links(tmp_path, uploads, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(module.os, "link", no_links)
    saves(tmp_path, make(tmp_path), 1)
    assert (tmp_path / "_checkpoint-1_to_push" / "model.safetensors").read_text() == "model.safetensors of 1"


@pytest.mark.parametrize("function", ["_keep", "_start"])
def test_no_room_stops_no_training(tmp_path, uploads, monkeypatch, caplog, function):
    def no_room(*_):
        raise OSError("No space left on device")

    if function == "_keep":
        monkeypatch.setattr(module, "_keep", no_room)
    else:
        monkeypatch.setattr(CheckpointPush, "_start", no_room)
    callback = make(tmp_path)
    saves(tmp_path, callback, 1)
    callback.finish()
    assert "checkpoint-1 " in caplog.text and "No space left on device" in caplog.text
    assert waiting(tmp_path) == set()


def test_what_a_killed_run_left_is_taken_up(tmp_path, uploads):
    saves(tmp_path, make(tmp_path), 1)
    callback = make(tmp_path)
    callback.on_train_begin(None, None, None)
    assert uploads.names() == ["checkpoint-1", "checkpoint-1"]


def test_other_ranks_do_nothing(tmp_path, uploads):
    saves(tmp_path, make(tmp_path), 1, is_first=False)
    assert uploads.names() == [] and waiting(tmp_path) == set()
