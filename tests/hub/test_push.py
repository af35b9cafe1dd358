"""Runs pushed to and loaded from a Hub on loopback, through the real client."""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from hub_client import TOKEN, connect, environment
from hub_server import Fault, HubServer
from huggingface_hub.utils import close_session
from huggingface_hub.utils._http import default_client_factory
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.cli import main
from lejepa_hf.hub import push
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.public_files import card_for_repository
from lejepa_hf.hub.push import push_run
from lejepa_hf.system.run_folder import RunFolder

OTHER = "hf_" + "b" * 30
ID = "me/encoder"
CODE_HERE = 'folder = "."  # this folder, or the id of its repository on the Hub'
BACKBONE = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
ROOT = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
PUBLISHED = ROOT | {
    "recipe.yaml", "versions.json", "results.json", "statistics.json", "metrics.jsonl", "pictures/losses.png",
    "pretraining/config.json", "pretraining/model.safetensors", "pretraining/preprocessor_config.json",
}  # fmt: skip

# Somebody who found the id on the Hub: lejepa_hf cannot be imported there.
STRANGER = """
import sys
sys.modules["lejepa_hf"] = None
import json, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

torch.set_num_threads(1)
repo, path, revisions = sys.argv[1], sys.argv[2], sys.argv[3:]
image, found = Image.open(path), {}
for revision in revisions:
    encoder = AutoModel.from_pretrained(repo, revision=revision).eval()
    processor = AutoImageProcessor.from_pretrained(repo, revision=revision)
    with torch.no_grad():
        found[revision] = encoder(**processor(image, return_tensors="pt")).pooler_output[0].tolist()
extract = pipeline("image-feature-extraction", model=repo, revision="main", pool=True, device="cpu")
found["pipeline"] = torch.tensor(extract(image)).flatten().tolist()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The files of a finished run, with a checkpoint on the way."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    write_run(run, seed=0)
    return run


def write_run(run: Path, seed: int, **recipe) -> LeJEPAForPreTraining:
    torch.manual_seed(seed)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=BACKBONE, projector_dims=[8]))
    facts = {"dataset": "digits", "output_dir": str(run), "max_steps": 4}
    for name in ("checkpoint-2", "pretraining"):
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(run / name)
        build_processor(32).save_pretrained(run / name)
    (run / "checkpoint-2" / "trainer_state.json").write_text("{}")
    torch.save({"state": {}}, run / "checkpoint-2" / "optimizer.pt")
    torch.save({}, run / "pretraining" / "training_args.bin")
    RunFolder(run).write_start(facts | recipe)
    (run / "statistics.json").write_text("{}")
    row = {"step": 4, "prediction_loss": 0.5, "sigreg_loss": 1.5, "images_per_second": 9.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (run / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(run / "pictures" / "losses.png")
    export_encoder(run)
    (run / "results.json").write_text(json.dumps({"encoder": {"eval_knn_top1": 0.5}}))
    return model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me", OTHER: "somebody"}) as server:
        connect(server, monkeypatch)
        yield server
    close_session()


def embedding(model: LeJEPAForPreTraining, encoder: Path, image: Path) -> torch.Tensor:
    pixels = AutoImageProcessor.from_pretrained(encoder)(Image.open(image), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model.eval().encoder(pixels).pooler_output[0]


def test_what_lies_where(hub, finished):
    assert push_run(finished, ID) == f"{hub.url}/{ID}"
    files = hub.files(ID)
    assert files.keys() - {".gitattributes"} == PUBLISHED
    assert files["model.safetensors"] == (finished / "encoder" / "model.safetensors").read_bytes()
    assert files["pretraining/model.safetensors"] == (finished / "pretraining" / "model.safetensors").read_bytes()
    assert "auto_map" not in json.loads(files["config.json"])


def test_pictures_of_local_images_are_published_only_if_asked(hub, tmp_path, capfd):
    run = tmp_path / "run"
    write_run(run, seed=0, dataset=str(tmp_path / "photos"))
    images = ["pictures/pca_maps.png", "pictures/neighbours.png", "pictures/embeddings.png"]
    for name in images:
        Image.new("RGB", (8, 8)).save(run / name)
    (run / "results.json").unlink()  # of which the card would show more than is in this one
    export_encoder(run)
    assert main(["push", str(run), ID]) == 0
    told = f"{' and '.join(images)} would show images of this machine: not pushed, unless by `lejepa push {run} {ID} "
    assert f"{told}--with-pictures`.\n" in capfd.readouterr().err
    files = hub.files(ID)
    assert not files.keys() & set(images) and files.keys() >= {"pictures/losses.png"}
    shown = re.findall(r"\]\((.*\.png)\)", files["README.md"].decode())
    assert shown == ["pictures/losses.png"]
    assert main(["push", str(run), ID, "--with-pictures"]) == 0
    assert "would show" not in capfd.readouterr().err
    files = hub.files(ID)
    shown = re.findall(r"\]\((.*\.png)\)", files["README.md"].decode())
    assert sorted(shown) == sorted(["pictures/losses.png", *images]) and files.keys() >= set(images)


@pytest.mark.slow
def test_the_code_of_a_pushed_card_runs_where_it_is_copied_to(hub, finished, tmp_path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "photo.jpg")
    checkpoint = export_encoder(finished / "checkpoint-2", tmp_path / "encoder-2")
    for run, branch, loaded in (
        (finished, "main", "from_pretrained(folder)"),
        (checkpoint, "checkpoint-2", 'from_pretrained(folder, revision="checkpoint-2")'),
    ):
        push_run(run, ID, revision=branch)
        (code,) = re.findall(r"```python\n(.*?)```", hub.files(ID, branch)["README.md"].decode(), re.DOTALL)
        assert f'folder = "{ID}"\n' in code and code.count(loaded) == 2
        code = f"import sys\nsys.modules['lejepa_hf'] = None\n{code}\nprint(embedding.shape)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env=environment(hub, tmp_path / "cache"),
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout == "torch.Size([1, 64])\n", done.stderr[-4000:]


def test_nothing_private_leaves_the_machine(hub, tmp_path, monkeypatch):
    """Everything the server stored, and every name, is searched for what only this machine knows."""
    user, secrets = "annabella", ["hf_" + "S" * 30, "wandb-key-0123456789", "hf_" + "R" * 30, "hf_" + "L" * 30]
    home = tmp_path / "home" / user
    run = home / "experiments" / "run"
    run.mkdir(parents=True)
    for name, value in (("HOME", str(home)), ("LOGNAME", user), ("USER", user)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_API_KEY", secrets[1])
    hub.tokens[secrets[0]] = "me"
    monkeypatch.setenv("HF_TOKEN", secrets[0])
    write_run(
        run, seed=1, pretrained_backbone=str(home / "weights"), run_name=f"{user} tries", logging_dir=str(home),
        data_files=[f"hf://{secrets[2]}@datasets/x", f"{home}/a.parquet"], hub_model_id=f"{user}/x",
        mixture=[{"dataset": str(home / "images")}], lr_scheduler_kwargs={"note": f"token {secrets[3]}"},
    )  # fmt: skip
    for part in ("encoder", "pretraining"):
        config = json.loads((run / part / "config.json").read_text())
        config |= {"_name_or_path": str(home / "weights"), "seen": f"file://{home}/weights, then"}
        if part == "pretraining":
            config["backbone_config"]["_name_or_path"] = str(home)
        (run / part / "config.json").write_text(json.dumps(config))
    with (run / "encoder" / "README.md").open("a") as card:
        card.write(f"\nTrained in {run} with `{secrets[1]}`, see {home}/notes.txt and https://example.org/home\n")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 5, "note": f"read from {run}/x.tar"}) + "\n")
    (run / "encoder" / "notes.txt").write_text(user)
    (run / "checkpoint-2" / "scheduler.pt").write_text(user)
    push_run(run, ID)
    assert hub.files(ID).keys() - {".gitattributes"} == PUBLISHED
    stored = {path.name: path.read_bytes() for path in hub.folder.rglob("*") if path.is_file()}
    for name, content in stored.items():
        for word in (*secrets, str(home), str(run), str(tmp_path), user, "_name_or_path"):
            assert word not in name and word.encode() not in content, (name, word)
    card = hub.files(ID)["README.md"].decode()
    assert card.endswith("Trained in <local> with `<secret>`, see <local> and https://example.org/home\n")
    assert json.loads(hub.files(ID)["config.json"])["seen"] == "file://<local>, then"
    recipe = yaml.safe_load(hub.files(ID)["recipe.yaml"])
    assert recipe == {
        "dataset": "digits", "max_steps": 4, "pretrained_backbone": "<local>", "data_files": ["<local>", "<local>"],
        "mixture": [{"dataset": "<local>"}], "lr_scheduler_kwargs": {"note": "token <secret>"},
    }  # fmt: skip
    assert str(home) in (run / "recipe.yaml").read_text()  # the run itself stays as it is


@pytest.mark.slow
def test_a_stranger_loads_it_by_its_id(hub, finished, tmp_path):
    push_run(finished, ID)
    checkpoint = export_encoder(finished / "checkpoint-2", tmp_path / "encoder-2")
    assert push_run(checkpoint, ID, revision="checkpoint-2") == f"{hub.url}/{ID}/tree/checkpoint-2"
    assert hub.files(ID, "checkpoint-2").keys() - {".gitattributes"} == ROOT
    image = tmp_path / "image.png"
    pixels = torch.randint(256, (50, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.numpy()).save(image)
    expected = {
        revision: embedding(LeJEPAForPreTraining.from_pretrained(finished / folder), finished / "encoder", image)
        for revision, folder in (("main", "pretraining"), ("checkpoint-2", "checkpoint-2"))
    }
    assert (expected["main"] - expected["checkpoint-2"]).abs().max() > 1e-3
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):  # the second time from the cache
        before = len(hub.requests)
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, ID, str(image), *expected], cwd=tmp_path,
            capture_output=True, text=True, timeout=120, env=environment(hub, tmp_path / "cache", **more),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        found = json.loads(done.stdout.splitlines()[-1])
        for revision, value in expected.items():
            torch.testing.assert_close(torch.tensor(found[revision]), value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.tensor(found["pipeline"]), expected["main"], atol=1e-5, rtol=1e-5)
        assert (len(hub.requests) == before) == bool(more)


WARM = """
import sys
from safetensors.torch import save_file
from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.initial_model import build_model
from lejepa_hf.runs.resolving import resolve

repo, recipe, folder = sys.argv[1:]
going_on = LeJEPAForPreTraining.from_pretrained(repo, subfolder="pretraining")
save_file({name: value.contiguous() for name, value in going_on.state_dict().items()}, folder + "/going_on")
recipe = resolve(parse_recipe(recipe, ["--pretrained_backbone", repo]))
warm = build_model(recipe.config, recipe.model.pretrained_backbone)
save_file({name: value.contiguous() for name, value in warm.encoder.state_dict().items()}, folder + "/warm")
"""


@pytest.mark.slow
def test_training_goes_on_from_a_private_one(hub, finished, tmp_path):
    assert main(["push", str(finished), ID, "--private"]) == 0
    for token in (False, OTHER):
        with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
            huggingface_hub.HfApi(token=token).model_info(ID)
    (tmp_path / "recipe.yaml").write_text("dataset: digits\nprojector_dims: [8]\nuse_cpu: true\n")
    done = subprocess.run(
        [sys.executable, "-c", WARM, ID, str(tmp_path / "recipe.yaml"), str(tmp_path)],
        capture_output=True, text=True, timeout=120,
        env=environment(hub, tmp_path / "cache", HF_TOKEN=TOKEN, PYTHONPATH=os.environ.get("PYTHONPATH", "")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    trained = load_file(finished / "pretraining" / "model.safetensors")
    going_on, warm = load_file(tmp_path / "going_on"), load_file(tmp_path / "warm")
    assert going_on.keys() >= trained.keys() and all(torch.equal(going_on[name], trained[name]) for name in trained)
    checked = [name for name in warm if f"encoder.{name}" in trained]
    assert len(checked) > 20 and all(torch.equal(warm[name], trained[f"encoder.{name}"]) for name in checked)


def test_what_is_there_is_not_sent_again(hub, finished):
    push_run(finished, ID)
    first, sha = hub.bytes_received, hub.read(ID)["refs"]["main"]
    assert first > sum((finished / part / "model.safetensors").stat().st_size for part in ("encoder", "pretraining"))
    push_run(finished, ID)
    assert hub.bytes_received - first < 30_000  # names, sizes and first bytes of files, no weights
    assert hub.read(ID)["refs"]["main"] == sha
    push_run(finished, ID, revision="copy")
    assert not [request for request in hub.requests if request.startswith("PUT")][3:]
    copied, there = hub.files(ID, "copy"), hub.files(ID)
    assert b'revision="copy"' in copied.pop("README.md") and b"revision" not in there.pop("README.md")
    assert copied == there


@pytest.mark.slow
def test_large_files_the_way_that_the_client_takes_by_default(hub, finished, monkeypatch):
    """In chunks, through hf_xet, which comes with the client; all other tests switch it off."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    hub.faults = [Fault("POST /v1/xorbs", cut_after=1000), Fault("POST /v1/shards", status=500)]
    push_run(finished, ID)
    assert all(fault.times == 0 for fault in hub.faults) and hub.xorbs
    assert not [request for request in hub.requests if request.startswith("PUT")]
    files = hub.files(ID)
    assert files.keys() - {".gitattributes"} == PUBLISHED
    for name, path in (("model", "encoder/model"), ("pretraining/model", "pretraining/model")):
        assert files[f"{name}.safetensors"] == (finished / f"{path}.safetensors").read_bytes()
    hub.requests.clear()
    push_run(finished, ID)
    assert not [request for request in hub.requests if "/v1/xorbs" in request]


def test_another_run_replaces_ours_and_leaves_what_others_put_there(hub, finished, tmp_path):
    push_run(finished, ID)
    api = huggingface_hub.HfApi()
    for name in ("LICENSE", "model-00001-of-00002.safetensors", "pictures/pca_maps.png", "assets/logo.png"):
        api.upload_file(path_or_fileobj=b"of others", path_in_repo=name, repo_id=ID)
    write_run(tmp_path / "run", seed=2)
    push_run(tmp_path / "run", ID)
    files = hub.files(ID)
    assert files.keys() - {".gitattributes"} == PUBLISHED | {"LICENSE", "assets/logo.png"}
    assert files["model.safetensors"] == (tmp_path / "run" / "encoder" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("seed", range(10))
def test_cut_connections(hub, finished, seed):
    """Cuts in the middle of requests and of answers, anywhere."""
    rng = random.Random(seed)
    size = (finished / "encoder" / "model.safetensors").stat().st_size
    hub.faults = [
        Fault("PUT", cut_after=rng.randrange(size)),
        Fault("PUT", cut_after=rng.randrange(size)),
        Fault(
            rng.choice(["preupload", "batch", "verify", "commit", "validate", "create"]), cut_after=rng.randrange(99)
        ),
        Fault(rng.choice(["preupload", "batch", "commit", "GET"]), cut_answer_after=rng.randrange(20)),
    ]
    push_run(finished, ID)
    assert all(fault.times == 0 for fault in hub.faults)
    files = hub.files(ID)
    assert files.keys() - {".gitattributes"} == PUBLISHED
    assert files["model.safetensors"] == (finished / "encoder" / "model.safetensors").read_bytes()
    card = (finished / "encoder" / "README.md").read_text()
    assert "](../pictures/losses.png)" in card and "../pictures/" not in files["README.md"].decode()
    expected = card_for_repository(card, has_pictures=True).replace(CODE_HERE, f'folder = "{ID}"')
    assert files["README.md"].decode() == expected and CODE_HERE in card
    assert files["pretraining/model.safetensors"] == (finished / "pretraining" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("where", ["repos/create", "GET /api", "validate-yaml", "preupload", "batch", "PUT", "commit"])
def test_busy_and_broken_servers_are_asked_again(hub, finished, where):
    hub.faults = [Fault(where, status=429, headers={"Retry-After": "7"}), Fault(where, status=500)]
    push_run(finished, ID)
    assert hub.files(ID).keys() - {".gitattributes"} == PUBLISHED
    waits = sorted(float(request.split()[1]) for request in hub.requests if request.startswith("WAIT"))
    assert len(waits) == 2 and waits[0] < 7 <= waits[1] <= 8  # large files go at the same time


@pytest.mark.parametrize("where", ["repos/create", "preupload", "PUT", "commit"])
def test_a_silent_server_is_asked_again(hub, finished, monkeypatch, where):
    monkeypatch.setattr(push, "_LONGEST_SILENCE", 0.5)
    hub.faults = [Fault(where, silence=20)]
    start = time.monotonic()
    push_run(finished, ID)
    assert time.monotonic() - start < 15
    assert hub.files(ID).keys() - {".gitattributes"} == PUBLISHED
    assert huggingface_hub.utils.get_session().timeout.read is None  # of others' requests


def test_a_server_that_is_gone_half_way(hub, finished, tmp_path, monkeypatch, capfd):
    hub.stop_behind = "POST /lfs/verify"  # of one of the large files
    assert main(["push", str(finished), ID]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: `repo_id` '{ID}': {hub.url} did not accept it (")
    assert error.endswith("the same command continues from there.")
    assert hub.files(ID).keys() == {".gitattributes"}
    with HubServer(hub.folder, port=hub.port, tokens=hub.tokens) as again:
        connect(again, monkeypatch)
        assert main(["push", str(finished), ID]) == 0
        assert again.files(ID).keys() - {".gitattributes"} == PUBLISHED
        assert len([request for request in again.requests if request.startswith("PUT")]) < 3


def test_a_thread_that_finds_the_connection_closed(hub, finished, monkeypatch, capfd):
    """
    The client's threads share one connection: one that closes it, because the server is gone, may leave another with
    None. Here each thread finds None as soon as it is closed.
    """

    def connection():
        return default_client_factory() if threading.current_thread() is threading.main_thread() else None

    huggingface_hub.set_client_factory(connection)
    try:
        hub.stop_behind = f"POST /{ID}.git/info/lfs/objects/batch"
        assert main(["push", str(finished), ID]) == 2
        lines = capfd.readouterr().err.splitlines()
        assert "the connection was lost: trying again in 1 s." in lines
        assert lines[-1].endswith("the same command continues from there.")
        assert not [line for line in lines if line.startswith("Traceback")]
    finally:
        huggingface_hub.set_client_factory(default_client_factory)


def test_quiet_leaves_the_result(hub, finished, capfd):
    assert main(["push", str(finished), ID]) == 0
    assert " files, " in capfd.readouterr().err
    assert main(["push", str(finished), ID, "--quiet"]) == 0
    assert capfd.readouterr() == (f"{hub.url}/{ID}\n", "")


def refused(capfd, *arguments: str) -> str:
    """The one line that says why."""
    assert main(["push", *arguments]) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and captured.err.endswith(lines[0] + "\n") and captured.out == ""
    return lines[0]


@pytest.mark.parametrize("repo_id", ["encoder", "me/a/b", "me/", "me/two words", "me/-x", "me/" + "x" * 100])
def test_names_that_are_none(hub, finished, capfd, repo_id):
    assert f"error: `repo_id` '{repo_id}' " in refused(capfd, str(finished), repo_id)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "`token` is missing, .*: log in with `hf auth login`, or set HF_TOKEN"),
        (
            "hf_" + "x" * 30,
            "`repo_id` 'me/encoder': .* does not accept this `token`: make a new one with write access",
        ),
        (OTHER, "`repo_id` 'me/encoder': this `token` has no right to write there: use one with write access to 'me'"),
    ],
)
@pytest.mark.parametrize("state", ["missing", "public", "private"])
def test_tokens_that_do_not_do(hub, finished, monkeypatch, capfd, token, message, state):
    if state != "missing":
        hub.create(ID, private=state == "private")
    connect(hub, monkeypatch, token)
    error = refused(capfd, str(finished), ID)
    assert re.search(message, error), error
    assert not [request for request in hub.requests if request.startswith(("PUT", "WAIT")) or "commit" in request]
    assert token is None or token not in error


def test_gated_repositories_of_others(hub, finished, monkeypatch, capfd):
    hub.create(ID, gated=True)
    connect(hub, monkeypatch, OTHER)
    error = refused(capfd, str(finished), ID)
    assert f"`repo_id` '{ID}': it is gated and this account has no access: request it at {hub.url}/{ID}, or" in error


def test_what_should_be_private_is_not_pushed_to_a_public_place(hub, finished, capfd):
    hub.create(ID)
    assert f"`private`: '{ID}' exists and is public" in refused(capfd, str(finished), ID, "--private")
    assert hub.files(ID).keys() == {".gitattributes"}


def test_no_server(hub, finished, monkeypatch, capfd):
    hub.stop()
    connect(hub, monkeypatch)
    assert f"{hub.url} did not accept it (" in refused(capfd, str(finished), ID)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    close_session()
    assert "cannot be written in offline mode: unset HF_HUB_OFFLINE" in refused(capfd, str(finished), ID)


def test_folders_with_nothing_to_push(hub, finished, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    run = tmp_path / "stopped"
    for name in ("checkpoint-100", "checkpoint-20"):
        (run / name).mkdir(parents=True)
    exported = tmp_path / "exported"
    write_run(exported, seed=0)
    (exported / "encoder" / "model.safetensors").unlink()
    pointer = tmp_path / "pointer"
    write_run(pointer, seed=0)
    (pointer / "encoder" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    cases = {
        pointer: "is not pushed: model.safetensors is a git-lfs pointer instead of the file",
        tmp_path / "missing": "is not a folder",
        tmp_path / "empty": "has no encoder/ and no pretraining/ to push: give the folder of a finished run",
        run: f"did not end. Continue it with `--resume`, or push a checkpoint of it: `lejepa export "
        f"{run}/checkpoint-100`, then `lejepa push {run}/encoder-100 REPO_ID`",
        exported: f"has no encoder/ to push: write it with `lejepa export {exported}`",
        exported / "encoder": "has a config.json and no weights: export the encoder again",
        finished / "pretraining": "holds a model in training: give the folder of its run",
        finished / "checkpoint-2": "holds a model in training: give the folder of its run",
    }
    for folder, message in cases.items():
        error = refused(capfd, str(folder), ID)
        assert error.startswith(f"error: `run` '{folder}' ") and message in error
    assert hub.requests == []


def test_readers_go_on_behind_a_cut(hub, finished, tmp_path):
    """Of the server of these tests: an answer that was cut is asked for from there."""
    push_run(finished, ID)
    hub.faults = [
        Fault(f"GET /{ID}/resolve", cut_answer_after=1000),
        Fault(f"GET /{ID}/resolve", cut_answer_after=2000),
    ]
    path = huggingface_hub.hf_hub_download(ID, "model.safetensors", cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == (finished / "encoder" / "model.safetensors").read_bytes()
    assert len([request for request in hub.requests if request.startswith(f"GET /{ID}/resolve")]) == 3
    api = huggingface_hub.HfApi()
    api.create_tag(ID, tag="v1")
    assert [ref.name for ref in api.list_repo_refs(ID).tags] == ["v1"]
    assert {row.path for row in api.list_repo_tree(ID, "pretraining")} == {
        name for name in PUBLISHED if name.startswith("pretraining/")
    }
    (row,) = api.get_paths_info(ID, ["pretraining/model.safetensors", "no such"])
    assert row.lfs.size == (finished / "pretraining" / "model.safetensors").stat().st_size
