"""What somebody does who has photographs and this package: train, look at the report, publish, load it elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_client import TOKEN, environment
from hub_server import HubServer
from PIL import Image
from stranger import NOT_INSTALLED

ID = "me/photos"
LOAD = (
    NOT_INSTALLED
    + """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

encoder, processor = AutoModel.from_pretrained(sys.argv[1]).eval(), AutoImageProcessor.from_pretrained(sys.argv[1])
with torch.no_grad():
    embedding = encoder(**processor(Image.open(sys.argv[2]), return_tensors="pt")).pooler_output.flatten(1)
assert embedding.isfinite().all() and embedding.std() > 0
print(embedding.shape[1])
"""
)


def photograph(path: Path, number: int, hue: int) -> None:
    """Soft blobs of one colour family, as large as a thumbnail, saved as cameras do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((48 + number % 9, 40), 3)
    tint = Image.new("RGB", blobs.size, [(200, 80, 40), (40, 90, 200)][hue])
    Image.blend(blobs, tint, 0.4).save(path, quality=90)


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "not_labelled"])
def test_from_photographs_to_an_encoder_on_the_hub(tmp_path, labelled):
    for number in range(96):
        kind, split = number % 2, "test" if number % 4 > 1 else "train"
        folder = Path(split) / ("foxes", "birds")[kind] if labelled else Path()
        photograph(tmp_path / "photos" / folder / f"{number}.jpg", number, kind)
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me"}) as hub:
        variables = environment(
            hub,
            tmp_path / "cache",
            HF_TOKEN=TOKEN,
            PYTHONPATH=os.environ.get("PYTHONPATH", ""),
            CUDA_VISIBLE_DEVICES="",
        )

        def run(*command: str) -> str:
            done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
            assert "Traceback" not in done.stdout + done.stderr
            return done.stderr + done.stdout

        lejepa = (sys.executable, "-m", "lejepa_hf")
        said = run(*lejepa, "train", "photos", "--max_steps", "3", "--output_dir", "run")
        assert "Recipe folder/small_cpu" in said and "Everything is in" in said
        assert ("untrained" in said) == labelled, "a table if there are labels"
        for name in ("pca_maps", "embeddings", "neighbours", "gaussianity"):
            assert (tmp_path / "run" / "pictures" / f"{name}.png").is_file(), name
        assert run(*lejepa, "report", "run").strip().endswith("report.html")
        said = run(*lejepa, "push", "run", ID)
        assert f"{hub.url}/{ID}" in said and "would show images of this machine: not pushed" in said
        assert not [
            name for name in hub.files(ID) if name.endswith(("neighbours.png", "pca_maps.png", "embeddings.png"))
        ]
        image = next((tmp_path / "photos").rglob("*.jpg"))
        assert int(run(sys.executable, "-c", LOAD, ID, str(image)).splitlines()[-1]) == 256
