"""Pushes that are killed by SIGKILL at a random byte, and once more."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import TOKEN, environment
from hub_server import HubServer
from safetensors.numpy import save_file

from lejepa_hf.hub.public_files import public_files

ID = "me/encoder"
SIZES = {"encoder": 6_000_000, "pretraining": 9_000_000}  # of their weights


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """What lies in the folder of a finished run, with weights that take their time."""
    import numpy as np

    folder, rng = tmp_path_factory.mktemp("runs") / "run", np.random.default_rng(0)
    for name, size in SIZES.items():
        (folder / name).mkdir(parents=True)
        save_file({"weight": rng.integers(256, size=size, dtype=np.uint8)}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text('{"model_type": "vit"}')
    (folder / "encoder" / "README.md").write_text("---\ntags:\n- lejepa\n---\n\nAn encoder.\n")
    (folder / "recipe.yaml").write_text("dataset: digits\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n' * 1000)
    return folder


def push(server: HubServer, run: Path, cache: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-c",
        "import sys; from lejepa_hf.cli import main; sys.exit(main())",
        "push",
        str(run),
        ID,
    ]
    variables = environment(server, cache, HF_TOKEN=TOKEN, HF_HUB_DISABLE_PROGRESS_BARS="1")
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(10), "in the commit"])
def test_killed_at_a_random_byte(tmp_path, run, seed):
    expected = {
        name: file if isinstance(file, bytes) else file.read_bytes() for name, file in public_files(run, ID).items()
    }
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me"}) as hub:
        first, weights = None, sum(SIZES.values())
        arrived = weights + 8000 if seed == "in the commit" else random.Random(seed).randrange(weights)

        def kill() -> None:
            os.kill(first.pid, signal.SIGKILL)

        hub.alarm = (arrived, kill)
        first = push(hub, run, tmp_path / "home")
        assert first.wait(60) == -signal.SIGKILL, first.stderr.read()
        first.communicate()
        assert hub.alarm is None and arrived <= hub.bytes_received
        seen = [{".gitattributes"}] + [{".gitattributes", *expected}] * (seed == "in the commit")
        for branch in (hub.read(ID) or {"refs": {}})["refs"]:  # nothing half-written
            assert hub.files(ID, branch).keys() in seen

        second = push(hub, run, tmp_path / "home")
        assert second.wait(60) == 0, second.stderr.read()
        second.communicate()
        files = hub.files(ID)
        del files[".gitattributes"]
        assert files == expected
        for path in (tmp_path / "hub" / "blobs").iterdir():
            assert TOKEN.encode() not in path.read_bytes() and str(run).encode() not in path.read_bytes()
