"""`train.py` on a dataset that is streamed from a Hub on loopback, over bad lines too."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import TOKEN, environment
from hub_server import Fault, HubServer
from pictures import table
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
ID = "me/pictures"
FILES = [f"data/train-0000{shard}-of-00003.parquet" for shard in range(3)]
RECIPE = {
    "dataset": ID, "streaming": True, "use_cpu": True, "image_column": "photo", "projector_dims": [8], "num_slices": 8,
    "backbone_config": {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16],
                        "depths": [1, 1]},
    "global_crop_size": 16, "num_local_views": 0, "blur_kernel_size": 5, "per_device_train_batch_size": 4,
    "max_steps": 12, "save_steps": 100, "logging_steps": 1, "monitors": [], "report_to": ["none"],
    "dataloader_num_workers": 1,
}  # fmt: skip


def parquet(numbers) -> bytes:
    buffer = io.BytesIO()
    table(numbers).to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(tmp_path):
    """The pictures are private, and only on a branch."""
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me"}) as server:
        server.create(f"datasets/{ID}", private=True)
        shards = {name: parquet(range(8 * shard, 8 * shard + 8)) for shard, name in enumerate(FILES)}
        server.put(f"datasets/{ID}", shards, revision="v1")
        yield server


def train(hub: HubServer, folder: Path, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess:
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    login = {} if token is None else {"HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), str(folder / "recipe.yaml"), *arguments], cwd=folder,
        env=environment(hub, folder / "home", **login), capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
def test_a_private_dataset_over_a_bad_line(hub, tmp_path):
    """Two passes and a half, cut and refused on the way, give the weights of an undisturbed run."""
    shard = f"GET /datasets/{ID}/resolve/.*{FILES[1]}"
    for name in ("calm", "disturbed"):
        faults = [
            Fault(f"GET /api/datasets/{ID}/tree", status=500),
            Fault(f"GET /datasets/{ID}/resolve", status=429, headers={"Retry-After": "1"}),
            Fault(shard, cut_answer_after=100),
            Fault(f"GET /datasets/{ID}/resolve/.*{FILES[2]}", status=500, times=3),
        ]
        hub.faults = faults if name == "disturbed" else []
        (tmp_path / name).mkdir()
        done = train(hub, tmp_path / name, "--dataset_revision", "v1", "--output_dir", str(tmp_path / name / "run"))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        assert TOKEN not in done.stdout + done.stderr
        assert all(fault.times == 0 for fault in hub.faults), [fault.pattern for fault in hub.faults if fault.times]
    rows = (tmp_path / "disturbed/run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["step"] for row in rows} == set(range(1, 13))
    calm, disturbed = (
        load_file(tmp_path / name / "run/pretraining/model.safetensors") for name in ("calm", "disturbed")
    )
    assert all((calm[name] == disturbed[name]).all() for name in calm)
    card = (tmp_path / "calm/run/encoder/README.md").read_text(encoding="utf-8")
    assert f"[{ID}](https://huggingface.co/datasets/{ID}), split `train`, revision `v1`" in card


@pytest.mark.slow
def test_what_is_refused(hub, tmp_path):
    for arguments, token, message in (
        (["--dataset_revision", "v1"], None, f"`dataset` '{ID}' was not found: "),
        ([], TOKEN, f"`dataset` '{ID}' has no images"),
        (["--dataset_revision", "v9"], TOKEN, f"`dataset` '{ID}' cannot be opened, check `revision`: "),
    ):
        done = train(hub, tmp_path, *arguments, token=token)
        assert done.returncode == 2, done.stderr[-3000:]
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert message in error and TOKEN not in done.stderr and "Traceback" not in done.stderr
