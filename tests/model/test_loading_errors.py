"""Errors when a model cannot be loaded from the Hub: repositories on loopback, real limits of the disk."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_client import TOKEN, connect, environment
from hub_server import HubServer
from huggingface_hub.utils import close_session

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.cli import main
from lejepa_hf.evaluation.evaluate_encoder import load_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.push import push_run
from lejepa_hf.model.backbone import load_pretrained_backbone
from lejepa_hf.model.loading_errors import explained
from lejepa_hf.runs.pretraining import main as train

ROOT = Path(__file__).parents[2]
OTHER, NOBODY = "hf_" + "b" * 30, "hf_" + "x" * 30
ROOM = 200_000  # bytes a file: enough for every file but weights
WEIGHTS = 400_000
BACKBONE = {
    "model_type": "vit", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 128, "image_size": 16, "patch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=BACKBONE, projector_dims=[8]))
    return export_encoder(model, tmp_path_factory.mktemp("run") / "encoder", build_processor(16))


@pytest.fixture
def hub(tmp_path, monkeypatch, encoder):
    """`org` owns a public, a private and a gated repository; the user `me` has access to the last one."""
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me", OTHER: "somebody"}) as server:
        files = {path.name: path.read_bytes() for path in encoder.iterdir()}
        for name, settings in (
            ("open", {}),
            ("private", {"private": True}),
            ("gated", {"gated": True, "let_in": ["me"]}),
        ):
            server.create(f"org/{name}", **settings)
            server.put(f"org/{name}", files)
        connect(server, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
    close_session()


GATED = (
    "'org/gated' is gated: accept its terms on {}/org/gated, then log in as that account with `hf auth login`, or set"
)
REFUSED = [
    ("org/gated", None, GATED),
    ("org/gated", OTHER, GATED),
    (
        "org/private",
        None,
        "'org/private' was not found: it is neither a folder here nor a repository of the Hub that this",
    ),
    ("org/private", TOKEN, "'org/private' was not found: "),
    (
        "org/open",
        NOBODY,
        "'org/open' cannot be read: {} does not accept this login. Make a new token at {}/settings/tok",
    ),
    ("org/nothing", TOKEN, "'org/nothing' was not found: "),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "token", "message"), REFUSED)
def test_one_line_before_anything_long(hub, tmp_path, monkeypatch, capfd, name, token, message):
    """The errors of each command name its own field, and never the token."""
    connect(hub, monkeypatch, token)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"dataset: digits\nuse_cpu: true\nprojector_dims: [8]\noutput_dir: {tmp_path}/run\n", encoding="utf-8"
    )
    message = message.format(hub.url, hub.url)
    for call, field in (
        (lambda: train([str(recipe), "--pretrained_backbone", name]), "pretrained_backbone"),
        (lambda: main(["plan", str(recipe), "--pretrained_backbone", name]), "pretrained_backbone"),
        (lambda: main(["evaluate", name, "--dataset", "digits"]), "encoder"),
        (lambda: main(["embed", "digits", "--model", name, "--out", str(tmp_path / "x.parquet")]), "encoder"),
    ):
        assert call() == 2
        captured = capfd.readouterr()
        (error,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert error.startswith(f"error: `{field}` {message}")
        assert "hf_" not in captured.err + captured.out and "Traceback" not in captured.err
    assert not (tmp_path / "run").exists()


def test_a_user_who_was_let_in(hub, encoder):
    assert [request for request in hub.requests if "gated" in request] == []
    backbone, (model, processor) = load_pretrained_backbone("org/gated"), load_encoder("org/gated", "cpu")
    trained = load_pretrained_backbone(str(encoder)).state_dict()
    for found in (backbone.state_dict(), model.state_dict()):
        assert all(torch.equal(found[name], value) for name, value in trained.items())
    assert processor.crop_size["height"] == 16


def test_no_server_and_nothing_in_the_cache(hub, monkeypatch):
    hub.stop()
    connect(hub, monkeypatch)
    with pytest.raises(ValueError, match="`encoder` 'org/open' (is neither|cannot be loaded)") as error:
        load_encoder("org/open")
    assert hub.url in str(error.value) and "\n" not in str(error.value)


def test_no_room_as_the_client_for_large_files_says_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "made"))
    with (
        pytest.raises(ValueError, match=rf"no room for it in '{tmp_path}' \(Data processing .* MiB are free\): make"),
        explained("encoder", "me/x"),
    ):
        raise RuntimeError("Data processing error: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="size mismatch"), explained("encoder", "me/x"):
        raise RuntimeError("size mismatch for a.weight")


COMMANDS = {
    "pretrained_backbone": [
        "train", "recipe.yaml", "--pretrained_backbone", "org/open", "--output_dir", "run", "--max_steps", "1",
    ],
    "continue_from": ["train", "recipe.yaml", "--continue_from", "me/run", "--output_dir", "run", "--max_steps", "1"],
    "evaluate": ["evaluate", "org/open", "--dataset", "digits", "--protocol", "knn"],
    "embed": ["embed", "digits", "--model", "org/open", "--out", "digits.parquet"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(hub, tmp_path, encoder, name):
    """The system limits the size of files: the download fails, nothing of it is used, and with room it succeeds."""
    run = tmp_path / "pushed"
    LeJEPAForPreTraining(LeJEPAConfig(backbone_config=BACKBONE, projector_dims=[8])).save_pretrained(
        run / "pretraining"
    )
    build_processor(16).save_pretrained(run / "pretraining")
    export_encoder(run)
    push_run(run, "me/run")
    recipe = {"dataset": "digits", "use_cpu": True, "projector_dims": [8], "report_to": ["none"], "num_slices": 8}
    recipe |= {"global_crop_size": 16, "num_local_views": 0, "per_device_train_batch_size": 8, "monitors": []}
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(recipe | {"dataloader_num_workers": 0, "blur_kernel_size": 5}), encoding="utf-8"
    )
    cache = tmp_path / "home"

    def call(room: int | None) -> subprocess.CompletedProcess:
        def limit() -> None:
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        return subprocess.run(
            [sys.executable, "-c", "import sys; from lejepa_hf.cli import main; sys.exit(main())", *COMMANDS[name]],
            env=environment(hub, cache, HF_TOKEN=TOKEN), preexec_fn=limit,
            cwd=tmp_path, capture_output=True, text=True, timeout=100,
        )  # fmt: skip

    assert (encoder / "model.safetensors").stat().st_size > WEIGHTS > ROOM
    done = call(ROOM)
    assert done.returncode == 2, done.stderr[-3000:]
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be downloaded, there is no room for it in" in error and str(cache / "hub") in error
    assert "MiB are free): make room there, or let HF_HOME name a folder with more. Nothing incomplete" in error
    assert "Traceback" not in done.stderr and TOKEN not in done.stderr + done.stdout
    assert not list(cache.rglob("*.incomplete")) and not list(cache.rglob("*.safetensors"))
    done = call(None)
    assert done.returncode == 0, done.stderr[-3000:]
    (weights,) = cache.rglob("model.safetensors")
    expected = run / "pretraining" if name == "continue_from" else encoder
    assert weights.read_bytes() == (expected / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["vit.pth", "weights", "missing.safetensors"])
def test_a_file_of_weights_is_not_an_encoder(tmp_path, name):
    if name != "missing.safetensors":
        torch.save({"weight": torch.zeros(2)}, tmp_path / name)
    for load in (load_encoder, load_pretrained_backbone):
        with pytest.raises(ValueError, match=r"is a file of weights, .*`timm.models.save_for_hf\(model, folder\)`"):
            load(str(tmp_path / name))
